"""Where the hub keeps what it was sent: one interface, SQLite and ClickHouse behind it."""
