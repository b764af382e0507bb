"""API: from an HTTP request to a call of the domain, and from its result or error to a response."""
