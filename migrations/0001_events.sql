-- The event log. An event is written once and never changed.
--
-- `autoincrement`: an id belongs to one event for ever, also after every row was trimmed. A plain rowid would start
-- again at 1 on an empty table, and a subscriber's cursor would then point at another event.
create table events (
    id         integer primary key autoincrement,
    topic      text    not null,
    type       text    not null,
    data       text    not null, -- JSON, exactly as it was published
    created_at integer not null, -- milliseconds since 1970 UTC; never goes backwards along the ids
    key        text              -- the publisher's own name for the event, once per topic
) strict;

-- A topic's events in id order (the rowid stands at the end of every index entry).
create index events_by_topic on events (topic);

create unique index events_by_key on events (topic, key) where key is not null;

-- For people: `select * from history`.
create view history as
select id,
       strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch') as time,
       topic,
       type,
       data,
       key
from events
order by id;

-- "SEGN": how a file is known to be ours.
pragma application_id = 0x5345474E;
