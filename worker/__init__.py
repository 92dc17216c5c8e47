"""The generation worker: claims image jobs from a Supabase queue and makes them with Gemini."""

__version__ = "0.1.0"
