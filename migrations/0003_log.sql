-- The log's own id, made with the file: a cursor of one log means nothing in another. A copy of the file is the same log.
create table log (
    id text not null -- a UUID
) strict;

insert into log (id)
select lower(
    hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
    || substr('89ab', 1 + (abs(random()) % 4), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
);

-- Ids that were announced and whose events this file does not have, because an older copy of it was put in its place. They
-- are never given again.
create table lost (
    after_id   integer primary key, -- the newest event that the file had
    through_id integer not null,    -- the newest id that may have been announced
    found_at   integer not null     -- milliseconds since 1970 UTC
) strict;
