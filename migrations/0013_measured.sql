-- The assets of a group are measured page by page, in order of their ids.
create index asset_of_group on asset (group_id, audience, id);

-- To check the asset of each part, and to lock it, is a third of the cost of writing one, and parts
-- are only written of assets that were just read. What belongs to an asset still goes with it.
alter table measured_part drop constraint measured_part_asset_id_fkey;
create function forget_parts() returns trigger language plpgsql as $$
begin
    delete from measured_part as p using gone where p.asset_id = gone.id;
    return null;
end
$$;
create trigger forget_parts after delete on asset
    referencing old table as gone for each statement execute function forget_parts();
create function forget_all_parts() returns trigger language plpgsql as $$
begin
    truncate measured_part;
    return null;
end
$$;
create trigger forget_all_parts before truncate on asset
    for each statement execute function forget_all_parts();
