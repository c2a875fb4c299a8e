-- What trimming took out of the middle of the log.
--
-- Where the oldest events go, `min(id)` says so. Where a topic's events go and others stay, nothing in `events` does: holes
-- between ids are normal. A subscriber of the topic whose cursor is below `last_id` has missed events and is told.
create table trimmed (
    topic   text    primary key,
    last_id integer not null -- the newest of its events that were, or may have been, trimmed or erased
) strict, without rowid;
