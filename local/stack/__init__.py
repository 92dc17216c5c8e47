"""A Supabase on loopback: PostgreSQL, the API server, and this project's SQL in it."""
