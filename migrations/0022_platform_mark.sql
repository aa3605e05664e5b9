-- What shows whether the configuration of a platform has changed since a daemon was started with it.
alter table platform add column configured text;
