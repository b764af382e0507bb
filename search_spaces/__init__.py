"""What may be asked of Rung: specs and their rules, and what the service and the workers share."""
