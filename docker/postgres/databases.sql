-- Two databases, each with a user of its own. PostgreSQL's image runs this file once, for an empty volume.
\getenv rung_password RUNG_DATABASE_PASSWORD
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD
CREATE ROLE rung LOGIN PASSWORD :'rung_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE rung OWNER rung ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE rung, mlflow, postgres FROM PUBLIC;
