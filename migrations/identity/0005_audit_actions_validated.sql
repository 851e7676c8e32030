-- Reads the entries that are there, beside whoever writes new ones.
ALTER TABLE audit_entries VALIDATE CONSTRAINT audit_entries_action_known;
