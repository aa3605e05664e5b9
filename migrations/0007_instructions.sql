-- What a user has an optimizer say to a provider through us.
create table instruction (
    id         bigint generated always as identity primary key,
    user_id    bigint not null references account on delete cascade,
    message_id bigint references outbox on delete cascade,  -- what became of it; null: declined
    error      text,                                        -- why it was declined at once
    created_at timestamptz not null
);
create index instruction_message on instruction (message_id);
create index instruction_declined on instruction (created_at) where message_id is null;
