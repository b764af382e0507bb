"""The service's database: experiments, their attempts and trials, idempotency keys and leases."""
