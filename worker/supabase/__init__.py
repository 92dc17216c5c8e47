"""Supabase: the queue's database functions and Storage. Nothing else knows its libraries."""
