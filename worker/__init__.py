"""The generation worker: claims image jobs from a Supabase queue and makes them with Gemini."""
