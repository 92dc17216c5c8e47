-- Runs that wait for starts at a gate, in line: see functions/41_turns.sql.
create table if not exists generation.gate_turns (
  model text not null,
  "runId" uuid not null,
  -- For how many images it last asked, and hashes of their users' ids.
  images integer not null,
  users integer[] not null,
  -- How many users' shares of the starts the run may have.
  weight double precision not null,
  -- Where the run stands in line, and whether it has been given starts yet.
  tag double precision not null,
  served boolean not null,
  -- When its turn can have come, and when it asked.
  "turnAt" timestamptz not null,
  "heardAt" timestamptz not null,
  primary key (model, "runId")
);
