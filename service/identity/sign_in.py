"""Sign-in: from a password, or the ID token of a provider, to a person.

Owns what must hold before a person gets a token: the limits of attempts, an account that is not disabled, and a way
that this service offers. It must not know HTTP, nor how long the token is valid.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from search_spaces.problems import Problem, SpecError
from service.contract.errors import ConflictError, ForbiddenError, UnauthorizedError
from service.identity import used_id_tokens, users
from service.identity.attempts import SignInAttempts
from service.identity.users import NewUser
from service.settings import AuthMode, Settings
from service.store.accounts import User
from service.store.database import Database


class SignIn:
    """The ways to sign in to one service. Its methods may be called by many threads.

    What only they need (hashes, signatures) is imported when it is used: a service without accounts starts without it.
    """

    def __init__(self, settings: Settings) -> None:
        self._attempts = SignInAttempts()
        self._has_accounts = settings.auth is AuthMode.ACCOUNTS
        self._passwords = settings.passwords
        issuer, client_id = settings.oidc_issuer, settings.oidc_client_id
        self._provider = None
        if issuer:
            from service.identity.oidc import OidcProvider

            self._provider = OidcProvider(issuer, client_id)

    def check_password(self, database: Database, address: str, login: str, password: str) -> str:
        """The id of the person with this login and password.

        Raises UnauthorizedError, TooManyAttemptsError, ConflictError without accounts, and ForbiddenError without
        passwords.
        """
        self._check_accounts()
        if not self._passwords:
            raise ForbiddenError("people do not sign in to this service with passwords (RUNG_PASSWORDS)")
        from service.identity.passwords import check_password

        self._attempts.begin(address, login)
        with database.read() as session:
            user = users.find_by_login(session, login)
        known = user is not None and user.disabled_at is None
        if not check_password(user.password_hash if user is not None and known else None, password) or user is None:
            raise UnauthorizedError("the login or the password is wrong")
        self._attempts.succeeded(address, login)
        return user.id

    def confirm(self, address: str, user: User, password: str) -> bool:
        """Whether a person who is signed in gave the present password.

        Raises TooManyAttemptsError, and ConflictError for one without a password: a token must not become a way to sign
        in that outlives it.
        """
        from service.identity.passwords import check_password

        if user.password_hash is None:
            raise ConflictError(f"{user.login} has no password: an administrator can set one")
        self._attempts.begin(address, user.login)
        return check_password(user.password_hash, password)

    def check_id_token(self, database: Database, address: str, id_token: str, nonce: str | None) -> NewUser:
        """Who the token is about, as the provider knows them. It is used up.

        Raises SignInRefusedError, TooManyAttemptsError, ProviderUnavailableError, ConflictError without accounts,
        ForbiddenError without a provider.
        """
        self._check_accounts()
        if self._provider is None:
            raise ForbiddenError("this service has no OpenID provider (RUNG_OIDC_ISSUER)")
        self._attempts.begin(address)
        found = self._provider.check(id_token, nonce)
        with database.write() as session:
            if not used_id_tokens.use(session, id_token, datetime.now(UTC)):
                raise UnauthorizedError("the ID token must not have been used before; sign in again")
        return NewUser(found.login, found.name, found.email, issuer=found.issuer, subject=found.subject)

    def _check_accounts(self) -> None:
        if not self._has_accounts:
            raise ConflictError("this service has no accounts (RUNG_AUTH=accounts), so that nobody can sign in")


def admit(session: Session, who: str | NewUser, now: datetime) -> User:
    """The person of an id, or of an identity, who is added at the first sign-in.

    Raises UnauthorizedError for one who is disabled.
    """
    user = session.get_one(User, who) if isinstance(who, str) else users.of_identity(session, who, now)
    if user.disabled_at is not None:
        raise UnauthorizedError(f"the account of {user.login} is disabled")
    return user


def new_password(text: str, login: str, field: str = "password") -> str:
    """The hash of a new password. Raises SpecError with everything that is wrong with it, as problems of the field."""
    from service.identity.passwords import hash_password, password_problems

    problems = [Problem(field, rule) for rule in password_problems(text, login)]
    if problems:
        raise SpecError(problems)
    return hash_password(text)
