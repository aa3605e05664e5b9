-- When a datum was last given other values; received_at says when it first came.
alter table datum add corrected_at timestamptz;
