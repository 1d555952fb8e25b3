"""What `authz doctor` looks at: this machine, the source of an identity, what the policies say of it, what runs."""
