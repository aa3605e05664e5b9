-- Tokens with which tokens are managed, those of other users too.
alter table access_token add column admin boolean not null default false;
