-- In a cluster: the newest command of each hub that was applied. A hub has one command on its way at a time, so that one that is not
-- newer is a copy that came late. One row for each start of a hub.
create table proposers (
    hub    text    primary key, -- its name, another one after each start
    number integer not null     -- of the command, counted by the hub
) strict, without rowid;
