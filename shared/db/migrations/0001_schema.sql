-- Tables of the management API. Conventions: ids are text, times are timestamptz, money is USD in
-- numeric(20,10), an absent limit is null. The upper bounds on money also keep NaN out.
--
-- Watched tables (see 0002_feed.sql) hold no column that changes with traffic: spend is in
-- counters, last use in key_activity, liveness in instance. A statement that changes a watched
-- table makes every instance drop the object from its cache.
--
-- Owners (user_id, team_id, organization_id, project_id, agent_id) are plain ids without foreign
-- keys: clients may name owners that do not exist yet, and owners may be deleted first.

-- What tells this database from another one that uses the same state directory.
create table cluster (
    one boolean primary key default true check (one),
    id  uuid not null default gen_random_uuid()
);
insert into cluster default values;

create table budget (
    budget_id             text primary key,
    max_budget            numeric(20, 10),
    soft_budget           numeric(20, 10),
    budget_duration       text,
    budget_reset_at       timestamptz,
    rpm_limit             bigint,
    tpm_limit             bigint,
    tpd_limit             bigint,
    max_parallel_requests integer,
    model_max_budget      jsonb not null default '{}',
    allowed_models        text[] not null default '{}',
    temp_budget_increase  numeric(20, 10),
    temp_budget_expiry    timestamptz,
    created_at            timestamptz not null default clock_timestamp(),
    created_by            text,
    updated_at            timestamptz not null default clock_timestamp(),
    updated_by            text,
    constraint budget_money check (
        max_budget between 0 and 9999999999 and soft_budget between 0 and 9999999999
        and temp_budget_increase between 0 and 9999999999
    ),
    constraint budget_rates check (
        rpm_limit >= 0 and tpm_limit >= 0 and tpd_limit >= 0 and max_parallel_requests >= 0
    )
);

create table object_permission (
    object_permission_id    text primary key,
    mcp_servers             text[] not null default '{}',
    mcp_access_groups       text[] not null default '{}',
    mcp_tool_permissions    jsonb not null default '{}',
    mcp_toolsets            text[] not null default '{}',
    mcp_tool_search_enabled boolean,
    blocked_tools           text[] not null default '{}',
    vector_stores           text[] not null default '{}',
    agents                  text[] not null default '{}',
    agent_access_groups     text[] not null default '{}',
    models                  text[] not null default '{}',
    search_tools            text[] not null default '{}',
    skills                  text[] not null default '{}'
);

-- `token` is the hex SHA-256 of the plain key, which is stored nowhere. Tags, guardrails, limits
-- per model and the other metadata-backed fields are members of `metadata`.
create table virtual_key (
    token                       text primary key,
    key_name                    text,
    key_alias                   text,
    key_type                    text not null default 'default',
    user_id                     text,
    team_id                     text,
    organization_id             text,
    project_id                  text,
    agent_id                    text,
    models                      text[] not null default '{}',
    aliases                     jsonb not null default '{}',
    config                      jsonb not null default '{}',
    permissions                 jsonb not null default '{}',
    metadata                    jsonb not null default '{}',
    router_settings             jsonb not null default '{}',
    expires                     timestamptz,
    blocked                     boolean,
    max_budget                  numeric(20, 10),
    soft_budget                 numeric(20, 10),
    budget_duration             text,
    budget_limits               jsonb,
    budget_fallbacks            jsonb not null default '{}',
    model_max_budget            jsonb not null default '{}',
    throttle_on_budget_exceeded boolean,
    budget_id                   text references budget on update cascade on delete set null,
    end_user_budget_id          text references budget on update cascade on delete set null,
    rpm_limit                   bigint,
    tpm_limit                   bigint,
    tpd_limit                   bigint,
    max_parallel_requests       integer,
    allowed_routes              text[] not null default '{}',
    allowed_cache_controls      text[] not null default '{}',
    access_group_ids            text[] not null default '{}',
    object_permission_id        text references object_permission on delete set null,
    auto_rotate                 boolean not null default false,
    rotation_interval           text,
    rotation_count              integer not null default 0,
    key_rotation_at             timestamptz,
    last_rotation_at            timestamptz,
    created_at                  timestamptz not null default clock_timestamp(),
    created_by                  text,
    updated_at                  timestamptz not null default clock_timestamp(),
    updated_by                  text,
    constraint virtual_key_token check (token ~ '^[0-9a-f]{64}$'),
    constraint virtual_key_type
        check (key_type in ('default', 'llm_api', 'management', 'read_only')),
    constraint virtual_key_expires check (isfinite(expires)),
    constraint virtual_key_lists check (
        array_position(models, null) is null and array_position(allowed_routes, null) is null
    ),
    constraint virtual_key_objects check (
        jsonb_typeof(aliases) = 'object' and jsonb_typeof(metadata) = 'object'
        and not jsonb_path_exists(aliases, '$.* ? (@.type() != "string")')
    ),
    constraint virtual_key_money check (
        max_budget between 0 and 9999999999 and soft_budget between 0 and 9999999999
    ),
    constraint virtual_key_rates check (
        rpm_limit >= 0 and tpm_limit >= 0 and tpd_limit >= 0 and max_parallel_requests >= 0
    )
);
create unique index virtual_key_alias on virtual_key (key_alias) where key_alias is not null;
-- Pages of the list leave out one team, and are found without the rows.
create index virtual_key_created on virtual_key (created_at desc, token) include (team_id);
create index virtual_key_user on virtual_key (user_id, created_at desc) where user_id is not null;
create index virtual_key_team on virtual_key (team_id, created_at desc) where team_id is not null;
create index virtual_key_organization on virtual_key (organization_id)
    where organization_id is not null;
create index virtual_key_project on virtual_key (project_id) where project_id is not null;
create index virtual_key_creator on virtual_key (created_by);
create index virtual_key_budget on virtual_key (budget_id) where budget_id is not null;
create index virtual_key_end_user_budget on virtual_key (end_user_budget_id)
    where end_user_budget_id is not null;
create index virtual_key_permission on virtual_key (object_permission_id)
    where object_permission_id is not null;
create index virtual_key_expires on virtual_key (expires) where expires is not null;
create index virtual_key_rotation on virtual_key (key_rotation_at) where auto_rotate;

-- Last use of a key. Written by the ledger, hence not watched and without a foreign key.
create table key_activity (
    token       text primary key,
    last_active timestamptz not null
) with (fillfactor = 50);

-- The archive of deleted and rotated keys. Columns follow virtual_key: a migration that adds one
-- there adds it here. `spend` is what the key had spent when it went.
create table deleted_virtual_key (
    like virtual_key including defaults,
    deletion_id        bigint generated always as identity primary key,
    reason             text not null default 'deleted',
    spend              numeric(20, 10) not null default 0,
    last_active        timestamptz,
    deleted_at         timestamptz not null default clock_timestamp(),
    deleted_by         text,
    deleted_by_api_key text,
    litellm_changed_by text,
    constraint deleted_virtual_key_reason check (reason in ('deleted', 'rotated'))
);
create index deleted_virtual_key_token on deleted_virtual_key (token);
create index deleted_virtual_key_at on deleted_virtual_key (deleted_at desc, deletion_id);
create index deleted_virtual_key_user on deleted_virtual_key (user_id) where user_id is not null;
create index deleted_virtual_key_team on deleted_virtual_key (team_id) where team_id is not null;
create index deleted_virtual_key_alias on deleted_virtual_key (key_alias)
    where key_alias is not null;

-- A rotated key's old hash, which works as the new key until `revoke_at`.
create table deprecated_virtual_key (
    token        text primary key,
    active_token text not null references virtual_key on update cascade on delete cascade,
    revoke_at    timestamptz not null,
    created_at   timestamptz not null default clock_timestamp(),
    constraint deprecated_virtual_key_token check (token ~ '^[0-9a-f]{64}$'),
    constraint deprecated_virtual_key_revoke check (isfinite(revoke_at))
);
create index deprecated_virtual_key_active on deprecated_virtual_key (active_token);

-- How many keys there are is the sum of these: every statement that adds or takes keys adds a row,
-- so that nobody waits for anybody, and now and then rows are made one.
create table key_tally (
    n bigint not null
);

create function tally_keys() returns trigger language plpgsql as $$
declare
    v_change bigint;
begin
    if tg_op = 'TRUNCATE' then
        delete from key_tally;
        return null;
    elsif tg_op = 'INSERT' then
        select count(*) into v_change from new_rows;
    else
        select -count(*) into v_change from old_rows;
    end if;
    if v_change <> 0 then
        insert into key_tally values (v_change);
    end if;
    if random() < 0.05 then
        with folded as (
            delete from key_tally
            where ctid in (select ctid from key_tally for update skip locked) returning n)
        insert into key_tally select sum(n) from folded having count(*) > 0;
    end if;
    return null;
end
$$;
create trigger tally_insert after insert on virtual_key referencing new table as new_rows
    for each statement execute function tally_keys();
create trigger tally_delete after delete on virtual_key referencing old table as old_rows
    for each statement execute function tally_keys();
create trigger tally_truncate after truncate on virtual_key
    for each statement execute function tally_keys();

-- The first token of a rotated key, under which its counters and limits are kept, so that calls
-- that were begun under an older token count for it whenever they are posted. Tokens that are not
-- here are their own. Rows are written before their token is used and never change; they outlive
-- their key for the same reason.
create table key_origin (
    token  text primary key,
    origin text not null,
    constraint key_origin_differs check (origin <> token)
);
create index key_origin_origin on key_origin (origin);

create table app_user (
    user_id               text primary key,
    user_email            text,
    user_alias            text,
    user_role             text,
    sso_user_id           text unique,
    password_hash         text,
    models                text[] not null default '{}',
    aliases               jsonb not null default '{}',
    permissions           jsonb not null default '{}',
    metadata              jsonb not null default '{}',
    max_budget            numeric(20, 10),
    soft_budget           numeric(20, 10),
    budget_duration       text,
    budget_limits         jsonb,
    model_max_budget      jsonb not null default '{}',
    rpm_limit             bigint,
    tpm_limit             bigint,
    tpd_limit             bigint,
    max_parallel_requests integer,
    allowed_cache_controls text[] not null default '{}',
    object_permission_id  text references object_permission on delete set null,
    created_at            timestamptz not null default clock_timestamp(),
    created_by            text,
    updated_at            timestamptz not null default clock_timestamp(),
    updated_by            text,
    constraint app_user_lists check (array_position(models, null) is null),
    constraint app_user_money check (
        max_budget between 0 and 9999999999 and soft_budget between 0 and 9999999999
    ),
    constraint app_user_rates check (
        rpm_limit >= 0 and tpm_limit >= 0 and tpd_limit >= 0 and max_parallel_requests >= 0
    )
);
create unique index app_user_email on app_user (lower(user_email)) where user_email is not null;
create index app_user_created on app_user (created_at desc, user_id);
create index app_user_permission on app_user (object_permission_id)
    where object_permission_id is not null;

create table team (
    team_id                     text primary key,
    team_alias                  text,
    organization_id             text,
    models                      text[] not null default '{}',
    model_aliases               jsonb not null default '{}',
    metadata                    jsonb not null default '{}',
    router_settings             jsonb not null default '{}',
    blocked                     boolean not null default false,
    max_budget                  numeric(20, 10),
    soft_budget                 numeric(20, 10),
    budget_duration             text,
    budget_limits               jsonb,
    model_max_budget            jsonb not null default '{}',
    rpm_limit                   bigint,
    tpm_limit                   bigint,
    tpd_limit                   bigint,
    max_parallel_requests       integer,
    access_group_ids            text[] not null default '{}',
    team_member_permissions     text[] not null default '{}',
    default_team_member_models  text[] not null default '{}',
    object_permission_id        text references object_permission on delete set null,
    created_at                  timestamptz not null default clock_timestamp(),
    created_by                  text,
    updated_at                  timestamptz not null default clock_timestamp(),
    updated_by                  text,
    constraint team_lists check (array_position(models, null) is null),
    constraint team_objects check (jsonb_typeof(metadata) = 'object'),
    constraint team_money check (
        max_budget between 0 and 9999999999 and soft_budget between 0 and 9999999999
    ),
    constraint team_rates check (
        rpm_limit >= 0 and tpm_limit >= 0 and tpd_limit >= 0 and max_parallel_requests >= 0
    )
);
create index team_created on team (created_at desc, team_id);
create index team_organization on team (organization_id) where organization_id is not null;
create index team_alias on team (team_alias) where team_alias is not null;
create index team_permission on team (object_permission_id)
    where object_permission_id is not null;

create table deleted_team (
    like team including defaults,
    deletion_id        bigint generated always as identity primary key,
    spend              numeric(20, 10) not null default 0,
    members            jsonb not null default '[]',
    deleted_at         timestamptz not null default clock_timestamp(),
    deleted_by         text,
    deleted_by_api_key text,
    litellm_changed_by text
);
create index deleted_team_id on deleted_team (team_id);
create index deleted_team_at on deleted_team (deleted_at desc, deletion_id);

-- `claimed`: somebody who is no proxy admin took in a user who was there already. That gives the
-- team's admins no power over the user; the same holds for organizations.
create table team_member (
    team_id    text not null references team on update cascade on delete cascade,
    user_id    text not null,
    user_email text,
    role       text not null default 'user',
    budget_id  text references budget on update cascade on delete set null,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    claimed    boolean not null default false,
    primary key (team_id, user_id),
    constraint team_member_role check (role in ('admin', 'user'))
);
create index team_member_user on team_member (user_id);
create index team_member_budget on team_member (budget_id) where budget_id is not null;

create table organization (
    organization_id      text primary key,
    organization_alias   text not null,
    budget_id            text references budget on update cascade on delete set null,
    models               text[] not null default '{}',
    metadata             jsonb not null default '{}',
    object_permission_id text references object_permission on delete set null,
    created_at           timestamptz not null default clock_timestamp(),
    created_by           text,
    updated_at           timestamptz not null default clock_timestamp(),
    updated_by           text
);
create index organization_budget on organization (budget_id) where budget_id is not null;
create index organization_permission on organization (object_permission_id)
    where object_permission_id is not null;

create table organization_member (
    organization_id text not null references organization on update cascade on delete cascade,
    user_id         text not null,
    user_role       text,
    budget_id       text references budget on update cascade on delete set null,
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp(),
    claimed         boolean not null default false,
    primary key (organization_id, user_id)
);
create index organization_member_user on organization_member (user_id);
create index organization_member_budget on organization_member (budget_id)
    where budget_id is not null;

-- End users that have a rule or were registered. An end user that was only ever seen in traffic
-- exists in the counters alone, so that traffic writes nothing here.
create table end_user (
    end_user_id          text primary key,
    alias                text,
    blocked              boolean not null default false,
    budget_id            text references budget on update cascade on delete set null,
    default_model        text,
    allowed_model_region text,
    models               text[] not null default '{}',
    metadata             jsonb not null default '{}',
    object_permission_id text references object_permission on delete set null,
    created_at           timestamptz not null default clock_timestamp(),
    updated_at           timestamptz not null default clock_timestamp(),
    constraint end_user_region check (allowed_model_region in ('eu', 'us'))
);
create index end_user_alias on end_user (alias) where alias is not null;
create index end_user_budget on end_user (budget_id) where budget_id is not null;
create index end_user_permission on end_user (object_permission_id)
    where object_permission_id is not null;

create table tag (
    name        text primary key,
    description text,
    models      text[] not null default '{}',
    budget_id   text references budget on update cascade on delete set null,
    created_at  timestamptz not null default clock_timestamp(),
    created_by  text,
    updated_at  timestamptz not null default clock_timestamp()
);
create index tag_budget on tag (budget_id) where budget_id is not null;

create table project (
    project_id           text primary key,
    project_alias        text,
    description          text,
    team_id              text,
    models               text[] not null default '{}',
    metadata             jsonb not null default '{}',
    blocked              boolean not null default false,
    budget_id            text references budget on update cascade on delete set null,
    object_permission_id text references object_permission on delete set null,
    created_at           timestamptz not null default clock_timestamp(),
    created_by           text,
    updated_at           timestamptz not null default clock_timestamp(),
    updated_by           text
);
create index project_team on project (team_id) where team_id is not null;
create index project_budget on project (budget_id) where budget_id is not null;
create index project_permission on project (object_permission_id)
    where object_permission_id is not null;

-- Models made through the API. Secrets inside `litellm_params` are envelopes under the key that
-- `secret_key_id` names.
create table model (
    model_id       text primary key,
    model_name     text not null,
    litellm_params jsonb not null,
    model_info     jsonb not null default '{}',
    blocked        boolean not null default false,
    secret_key_id  text,
    created_at     timestamptz not null default clock_timestamp(),
    created_by     text,
    updated_at     timestamptz not null default clock_timestamp(),
    updated_by     text
);
create index model_by_name on model (model_name);

create table credential (
    credential_id     text primary key,
    credential_name   text not null unique,
    display_name      text,
    credential_values jsonb not null,
    credential_info   jsonb not null default '{}',
    secret_key_id     text,
    created_at        timestamptz not null default clock_timestamp(),
    created_by        text,
    updated_at        timestamptz not null default clock_timestamp(),
    updated_by        text
);

-- One row per section of the configuration, e.g. general_settings.
create table config (
    param_name text primary key,
    value      jsonb not null,
    updated_at timestamptz not null default clock_timestamp(),
    updated_by text
);

-- Budget of a model access group; which deployments belong to it stands in model_info.
create table model_access_group (
    access_group text primary key,
    budget_id    text references budget on update cascade on delete set null,
    created_at   timestamptz not null default clock_timestamp(),
    created_by   text,
    updated_at   timestamptz not null default clock_timestamp(),
    updated_by   text
);
create index model_access_group_budget on model_access_group (budget_id)
    where budget_id is not null;

create table access_group (
    access_group_id       text primary key,
    access_group_name     text not null unique,
    description           text,
    access_model_names    text[] not null default '{}',
    access_mcp_server_ids text[] not null default '{}',
    access_agent_ids      text[] not null default '{}',
    access_skill_names    text[] not null default '{}',
    mcp_tool_permissions  jsonb not null default '{}',
    assigned_team_ids     text[] not null default '{}',
    assigned_key_ids      text[] not null default '{}',
    created_at            timestamptz not null default clock_timestamp(),
    created_by            text,
    updated_at            timestamptz not null default clock_timestamp(),
    updated_by            text
);

create table invitation (
    id          text primary key,
    user_id     text not null references app_user on update cascade on delete cascade,
    is_accepted boolean not null default false,
    accepted_at timestamptz,
    expires_at  timestamptz not null,
    created_at  timestamptz not null default clock_timestamp(),
    created_by  text,
    updated_at  timestamptz not null default clock_timestamp(),
    updated_by  text
);
create index invitation_user on invitation (user_id);

-- A browser session of the admin UI. `session_id` is a hash of the cookie's value.
create table ui_session (
    session_id   text primary key,
    user_id      text not null,
    user_role    text not null,
    login_method text not null,
    created_at   timestamptz not null default clock_timestamp(),
    expires_at   timestamptz not null,
    revoked_at   timestamptz
);
create index ui_session_user on ui_session (user_id);
create index ui_session_expiry on ui_session (expires_at);

-- What `meridian import litellm` has taken over, so that a further run adds only what is new.
-- `digest` is of the source's row as it was taken last. A row that is here and whose object is
-- not was deleted here, and does not come back. The two ids of a membership are joined by the unit
-- separator.
create table import_litellm (
    kind   text collate "C" not null,
    id     text collate "C" not null,
    digest bytea not null,
    primary key (kind, id)
);

-- `spend` is what the source said last of an owner's window (as in spend_counter), `counted` how
-- much of that has been added to the counter; a lifetime goes on where a budget starts anew.
create table import_litellm_spend (
    kind           text collate "C" not null,
    id             text collate "C" not null,
    window_start_s bigint not null,
    spend          numeric not null,
    counted        numeric not null,
    primary key (kind, id, window_start_s)
);

-- Who did what, as a chain: each row's digest covers its content and the digest before it, so
-- that a row changed or taken out later shows. Rows are numbered and chained on insert, one
-- transaction at a time; a transaction inserts here before it asks for its feed version, so that
-- audit_head is always locked before change_head.
create table audit_head (
    one    boolean primary key default true check (one),
    seq    bigint not null,
    digest bytea not null
);
insert into audit_head (seq, digest) values (0, '\x');

-- Where the kept part of the chain begins: the last row that retention has dropped.
create table audit_base (
    one    boolean primary key default true check (one),
    seq    bigint not null,
    digest bytea not null
);
insert into audit_base (seq, digest) values (0, '\x');

create table audit_log (
    id                 text primary key,
    seq                bigint not null unique,
    changed_at         timestamptz not null default clock_timestamp(),
    changed_by         text not null,
    actor              text not null,
    changed_by_api_key text,
    source_ip          text,
    route              text not null,
    action             text not null,
    table_name         text not null,
    object_id          text not null,
    before_value       jsonb,
    updated_values     jsonb,
    digest             bytea not null,
    constraint audit_log_action check (
        action in (
            'created', 'updated', 'deleted', 'blocked', 'unblocked', 'rotated', 'reset',
            'kill_switch_fired'
        )
    )
);
comment on column audit_log.changed_by is 'whom the caller names as the author, else the caller';
comment on column audit_log.actor is 'the caller itself, whatever it says';
create index audit_log_at on audit_log (changed_at desc, seq desc);
create index audit_log_object on audit_log (table_name, object_id, seq desc);
create index audit_log_actor on audit_log (changed_by, seq desc);

create function audit_digest(p_previous bytea, p_row audit_log) returns bytea
language sql stable as $$
    select sha256(p_previous || convert_to(jsonb_build_array(
        p_row.id, p_row.seq, extract(epoch from p_row.changed_at), p_row.changed_by, p_row.actor,
        p_row.changed_by_api_key, p_row.source_ip, p_row.route, p_row.action, p_row.table_name,
        p_row.object_id, p_row.before_value, p_row.updated_values
    )::text, 'UTF8'))
$$;

create function chain_audit() returns trigger language plpgsql as $$
declare
    previous bytea;
begin
    new.actor := coalesce(new.actor, new.changed_by);
    update audit_head set seq = seq + 1 returning seq, digest into new.seq, previous;
    new.digest := audit_digest(previous, new);
    update audit_head set digest = new.digest;
    return new;
end
$$;
create trigger chain before insert on audit_log for each row execute function chain_audit();

create function refuse_audit_update() returns trigger language plpgsql as $$
begin
    raise exception 'audit_log rows are never changed' using errcode = 'restrict_violation';
end
$$;
create trigger append_only before update on audit_log
    for each row execute function refuse_audit_update();

-- Rows go from the chain's beginning only, by drop_audit_before.
create function refuse_audit_delete() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' or old.seq > (select seq from audit_base) then
        raise exception 'audit_log rows are only dropped by retention'
            using errcode = 'restrict_violation';
    end if;
    return old;
end
$$;
create trigger drop_only before delete on audit_log
    for each row execute function refuse_audit_delete();
create trigger never_truncate before truncate on audit_log
    for each statement execute function refuse_audit_delete();

-- Retention: drops the oldest rows that are all older than p_before, p_most at once, and returns
-- how many. What is kept stays verifiable from audit_base on. Writers are not held up.
create function drop_audit_before(p_before timestamptz, p_most integer) returns integer
language plpgsql as $$
declare
    last    audit_log;
    dropped integer;
begin
    perform from audit_base for update;
    select l.* into last from audit_log l
    where l.seq = (
        select coalesce(min(o.seq) filter (where o.changed_at >= p_before) - 1, max(o.seq))
        from (select seq, changed_at from audit_log order by seq limit p_most) o);
    if not found then
        return 0;
    end if;
    update audit_base set seq = last.seq, digest = last.digest;
    delete from audit_log where seq <= last.seq;
    get diagnostics dropped = row_count;
    return dropped;
end
$$;

-- Who runs a background job, and when it was last done. `epoch` grows with every run; work done
-- under an old epoch is refused.
create table leader (
    job     text primary key,
    owner   text not null default '',
    epoch   bigint not null default 0,
    until   timestamptz not null default '-infinity',
    done_at timestamptz
) with (fillfactor = 50);

-- One row per process that serves. Written every two seconds, hence not watched. `boot` is drawn
-- anew at each start, so that id + boot is never used twice.
create sequence instance_boot;
create table instance (
    id              text primary key,
    boot            bigint not null default nextval('instance_boot'),
    binary_name     text not null,
    region          text not null,
    host            text not null,
    version         text not null,
    schema_version  integer not null,
    capabilities    text[] not null,
    applied_version bigint not null default 0,
    started_at      timestamptz not null default clock_timestamp(),
    last_seen       timestamptz not null default clock_timestamp(),
    stopped_at      timestamptz
) with (fillfactor = 30);
