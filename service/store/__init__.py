"""The service's database: experiments, attempts and trials; people, teams and tokens; idempotency keys and leases."""
