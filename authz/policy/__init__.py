"""What is allowed: the policy language, from bytes with positions to a decision. Pure."""
