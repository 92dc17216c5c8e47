"""What `make demo` and `make up` show: real orders, from end to end."""
