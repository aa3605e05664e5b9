-- The first house: accounts, peers, groups, assets, messages, streams, schedules, devices, events.
-- Text values are the names of the field (SolarNetwork's for managed entities, OSCP's on the wire).
-- Rows that want attention later carry due_at and leased_until; narrow tables keep those updates
-- away from the rows that people edit.

create table account (
    user_id     bigint primary key check (user_id > 0),
    created_at  timestamptz not null
);

create table access_token (
    id            text primary key,
    user_id       bigint not null references account on delete cascade,
    name          text,
    bearer_sha256 bytea not null unique,
    secret_sealed bytea not null,              -- request signing needs the secret itself
    created_at    timestamptz not null,
    last_used_at  timestamptz,
    revoked_at    timestamptz
);

-- Providers and optimizers share one shape and one id sequence.
create table peer (
    id                        bigint generated always as identity primary key,
    flexibility_provider_id   bigint generated always as identity,
    user_id                   bigint not null references account on delete cascade,
    role                      text not null
                              check (role in ('CapacityProvider', 'CapacityOptimizer')),
    name                      text not null,
    enabled                   boolean not null,
    base_url                  text,
    oscp_version              text not null,
    service_props             json,            -- json, not jsonb: keys keep their order
    secrets_sealed            bytea,           -- credentials out of service_props, encrypted
    link                      text not null default 'provisioned'
                              check (link in ('provisioned', 'registering', 'registered', 'online',
                                              'offline', 'unregistered', 'failed')),
    link_changed_at           timestamptz not null,
    outbound_token_sealed     bytea,           -- what we present to the peer
    heartbeat_interval_s      double precision,-- how often the peer wants our heartbeats
    measurement_configuration text[],          -- how the peer wants measurements
    handshake_id              text,            -- request id of our outstanding handshake
    handshake_due_at          timestamptz,     -- we shake hands (again) at this time
    handshake_attempts        integer not null default 0,
    offline_mode_at           timestamptz,     -- as the peer promised
    offline_at                timestamptz,     -- the same with our grace: the peer is offline then
    last_heard_at             timestamptz,
    created_at                timestamptz not null,
    modified_at               timestamptz not null
);
create unique index peer_base_url on peer (user_id, role, base_url);
create index peer_going_offline on peer (offline_at) where link = 'online';
create index peer_handshake_due on peer (handshake_due_at) where handshake_due_at is not null;

-- Inbound credentials. The one of the newest register is 'offered' until it is first used.
create table peer_token (
    sha256      bytea primary key,
    peer_id     bigint not null references peer on delete cascade,
    state       text not null check (state in ('current', 'offered', 'old')),
    created_at  timestamptz not null,
    valid_until timestamptz                    -- null: until replaced
);
create index peer_token_peer on peer_token (peer_id);

create table heartbeat_due (
    peer_id      bigint primary key references peer on delete cascade,
    due_at       timestamptz not null,
    leased_until timestamptz,
    sent_at      timestamptz
);
create index heartbeat_due_at on heartbeat_due (due_at);

create table capacity_group (
    id                 bigint generated always as identity primary key,
    user_id            bigint not null references account on delete cascade,
    name               text not null,
    identifier         text not null,
    enabled            boolean not null,
    provider_id        bigint not null references peer,
    optimizer_id       bigint references peer,
    provider_period_s  integer not null,
    optimizer_period_s integer not null,
    control            jsonb,
    created_at         timestamptz not null,
    modified_at        timestamptz not null,
    unique (user_id, identifier)
);
create index capacity_group_provider on capacity_group (provider_id, identifier);
create index capacity_group_optimizer on capacity_group (optimizer_id, identifier);

create table asset (
    id            bigint generated always as identity primary key,
    user_id       bigint not null references account on delete cascade,
    group_id      bigint not null references capacity_group on delete cascade,
    name          text not null,
    identifier    text not null,
    enabled       boolean not null,
    audience      text not null check (audience in ('CapacityProvider', 'CapacityOptimizer')),
    node_id       bigint not null,
    source_id     text not null,
    category      text not null,
    phase         text not null,
    instantaneous jsonb,
    energy        jsonb,
    control       jsonb,
    created_at    timestamptz not null,
    modified_at   timestamptz not null,
    unique (group_id, identifier)
);
create index asset_user on asset (user_id, id);
create index asset_device on asset ((control ->> 'device')) where control is not null;

-- Where generated datum are published. group_id null: the user's own, else it overrides per field.
create table publish_settings (
    user_id               bigint not null references account on delete cascade,
    group_id              bigint references capacity_group on delete cascade,
    publish_to_solar_in   boolean,
    publish_to_solar_flux boolean,
    node_id               bigint,
    source_id_template    text,
    created_at            timestamptz not null,
    modified_at           timestamptz not null
);
create unique index publish_settings_user on publish_settings (user_id) where group_id is null;
create unique index publish_settings_group on publish_settings (group_id);

-- What peers said, once per (peer, X-Request-ID).
create table message_in (
    peer_id     bigint not null references peer on delete cascade,
    request_id  text not null,
    operation   text not null,
    body_sha256 bytea not null,
    received_at timestamptz not null,
    primary key (peer_id, request_id)
);
create index message_in_received on message_in (received_at);

create table forecast (
    id             bigint generated always as identity primary key,
    group_id       bigint not null references capacity_group on delete cascade,
    peer_id        bigint not null references peer on delete cascade,
    request_id     text not null,
    correlation_id text,
    type           text not null,
    body           bytea not null,             -- as received, byte for byte
    received_at    timestamptz not null,
    ends_at        timestamptz not null        -- end of the last block
);
create index forecast_group on forecast (group_id, ends_at);

create table forecast_block (
    forecast_id bigint not null references forecast on delete cascade,
    position    integer not null,
    start_at    timestamptz not null,
    end_at      timestamptz not null,
    capacity    numeric not null,
    unit        text not null,
    phase       text not null,
    primary key (forecast_id, position)
);

-- What a group may do, from which instant on, and why. Appended when it changes.
create table envelope (
    id           bigint generated always as identity primary key,
    group_id     bigint not null references capacity_group on delete cascade,
    from_at      timestamptz not null,
    min_w        bigint,
    max_w        bigint,
    optimum_w    bigint,
    reason       text not null,
    forecast_ids bigint[] not null
);
create index envelope_group on envelope (group_id, from_at desc, id desc);

-- A group that wants its control looked at.
create table control_due (
    group_id     bigint primary key references capacity_group on delete cascade,
    due_at       timestamptz not null,
    leased_until timestamptz
);
create index control_due_at on control_due (due_at);

-- Messages owed to peers. Order is kept inside (peer, lane) by id.
create table outbox (
    id             bigint generated always as identity primary key,
    peer_id        bigint not null references peer on delete cascade,
    lane           text not null,
    operation      text not null,
    request_id     text not null unique,
    correlation_id text,
    body           bytea not null,
    sealed         boolean not null default false,
    group_id       bigint references capacity_group on delete cascade,
    forecast_id    bigint references forecast on delete set null,
    created_at     timestamptz not null,
    due_at         timestamptz not null,
    expires_at     timestamptz,
    leased_until   timestamptz,
    attempts       integer not null default 0,
    status         integer,
    error          text,
    settled_at     timestamptz,
    outcome        text check (outcome in ('delivered', 'refused', 'expired', 'superseded'))
);
create index outbox_due on outbox (due_at) where settled_at is null;
create index outbox_lane on outbox (peer_id, lane, id) where settled_at is null;
create index outbox_settled on outbox (settled_at) where settled_at is not null;

-- MQTT messages owed to the broker; a row goes once the broker has acknowledged it.
create table publication (
    id           bigint generated always as identity primary key,
    topic        text not null,
    payload      bytea not null,
    created_at   timestamptz not null,
    leased_until timestamptz
);
create index publication_leased on publication (leased_until) where leased_until is not null;

create table stream (
    id         bigint generated always as identity primary key,
    user_id    bigint not null references account on delete cascade,
    node_id    bigint not null,
    source_id  text not null,
    created_at timestamptz not null,
    unique (user_id, node_id, source_id)
);

-- i instantaneous, a accumulating, s status properties; t tags.
create table datum (
    stream_id   bigint not null references stream on delete cascade,
    at          timestamptz not null,
    i           jsonb,
    a           jsonb,
    s           jsonb,
    t           text[],
    received_at timestamptz not null,
    primary key (stream_id, at)
) partition by range (at);
create table datum_other partition of datum default;

-- The next unreported period of a group towards one audience.
create table measurement_due (
    group_id     bigint not null references capacity_group on delete cascade,
    audience     text not null check (audience in ('CapacityProvider', 'CapacityOptimizer')),
    period_s     integer not null,
    start_at     timestamptz not null,
    due_at       timestamptz not null,
    leased_until timestamptz,
    bridges      jsonb,                        -- asset → property → what resets have taken
    primary key (group_id, audience)
);
create index measurement_due_at on measurement_due (due_at);

create table device_state (
    name           text primary key,
    type           text not null,
    health         text not null,
    detail         text,
    reading        jsonb,
    reading_at     timestamptz,
    wanted         jsonb,                      -- what control decided last
    wanted_at      timestamptz,                -- when control last stood by it
    plan           jsonb,                      -- why, and what control must remember
    group_id       bigint references capacity_group on delete set null,
    envelope_id    bigint references envelope on delete set null,
    told           jsonb,                      -- what the device was sent last
    told_at        timestamptz,
    confirmed      jsonb,                      -- what the device was seen to follow
    confirmed_at   timestamptz,
    attempts       integer not null default 0, -- how often it did not follow, in a row
    failures       integer not null default 0, -- how often it could not be reached, in a row
    memory         jsonb,                      -- what the adapter must remember between runs
    due_at         timestamptz not null,       -- next reading
    command_due_at timestamptz,                -- next command; null: nothing to send
    leased_until   timestamptz,
    modified_at    timestamptz not null
);

-- Every command to a device and what came of it.
create table device_command (
    id          bigint generated always as identity primary key,
    device      text not null,
    group_id    bigint references capacity_group on delete set null,
    envelope_id bigint references envelope on delete set null,
    wanted      jsonb not null,
    sent_at     timestamptz not null,
    settled_at  timestamptz,
    outcome     text,
    detail      text
);
create index device_command_device on device_command (device, sent_at desc);

create table event (
    id       bigint generated always as identity primary key,
    user_id  bigint,
    at       timestamptz not null,
    kind     text not null,
    peer_id  bigint,
    group_id bigint,
    data     jsonb
);
create index event_at on event (at desc, id desc);
