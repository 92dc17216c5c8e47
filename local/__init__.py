"""The development stack: a real PostgreSQL, a real Supabase-compatible API, a simulated Gemini."""
