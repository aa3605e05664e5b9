-- Accounts of device services: requests of a day against its quota, and what else must outlive a
-- process (a stop after refused logins, the size of the quota as learned).

create table device_account (
    name        text primary key,              -- address of the service and name of the customer
    day         text not null default '',      -- the day that `requests` counts
    requests    bigint not null default 0,
    notes       jsonb not null default '{}',
    modified_at timestamptz not null
);
