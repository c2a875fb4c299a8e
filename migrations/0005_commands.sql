-- In a cluster: which command published which events, so that the command can be removed from the stream when an event of it is
-- erased. Rows go when the stream has no such command any more. A file that is alone has none.
create table command_ids (
    first_id integer primary key, -- of the events that the command appended, whose ids follow each other
    last_id  integer not null,
    sequence integer not null
) strict;

-- Commands that published an event again, under the same key: its data stands in them too.
create table command_duplicates (
    event_id integer not null,
    sequence integer not null,
    primary key (event_id, sequence)
) strict, without rowid;

-- Commands that are to be removed, as soon as every hub has applied what erased their events.
create table commands_to_remove (
    sequence  integer primary key,
    erased_by integer not null, -- sequence of the command that erased
    erased_at integer not null  -- milliseconds since 1970 UTC
) strict;
