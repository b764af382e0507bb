"""Routes: parse, call one function, return a view. Nothing is decided here."""
