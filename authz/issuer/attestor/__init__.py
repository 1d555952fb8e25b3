"""How the issuer knows which Service a process belongs to: one module for each kind of evidence."""
