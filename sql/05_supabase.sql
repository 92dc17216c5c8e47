-- Refuses a database that is not Supabase's: every grant and policy of the following files names its three roles.
do $$
declare
  v_missing text := (
    select string_agg(r.name, ', ' order by r.name)
    from unnest(array['anon', 'authenticated', 'service_role']) as r (name)
    where to_regrole(r.name) is null);
begin
  if v_missing is not null then
    raise exception using
      message = format('This is not a Supabase database: it has no role %s. Nothing was changed.', v_missing),
      hint = 'Use the connection string from the project''s dashboard (Connect, direct connection or session pooler).';
  end if;
end
$$;
