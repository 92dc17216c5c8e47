-- What the fair order and the count of a user's requests need.

-- The highest tag that was handed out past others, per priority: see pass_over.
create table if not exists generation.virtual_times (
  priority smallint primary key,
  tag bigint not null
);

-- Cancelled jobs whose requests may still be under way: see users_near_daily_limit.
create index if not exists photo_generation_queue_cancelled
on public.photo_generation_queue ("leaseExpiresAt")
where status = 'cancelled' and "leaseExpiresAt" is not null;
