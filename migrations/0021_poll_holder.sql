-- Who holds a poll: what a killed daemon held is free when the next one starts on its machine.
alter table platform_poll add column leased_by text;
