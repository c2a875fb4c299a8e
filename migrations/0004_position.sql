-- How far a file has come in the order of a cluster. A file that is alone has no row here.
--
-- Written in the same transaction as what the command did: a crash leaves both or neither, and a copy of the file is a hub's
-- place to go on from.
create table position (
    only_row        integer primary key check (only_row = 1),
    epoch           text    not null, -- the stream that orders, a UUID made with it
    sequence        integer not null, -- of the last command applied
    command_id      text    not null, -- of the same; another one there means that the stream was taken back
    last_created_at integer not null, -- the newest time given, also where its event is gone
    chain           text    not null  -- SHA-256 over all commands and what came of them: equal files have equal ones
) strict;
