-- The change feed: what has changed in the watched tables, in the order of commits.
--
-- A statement on a watched table adds a row without a version; a deferred trigger numbers a
-- transaction's rows once, at its end, from change_head. The head row stays locked until the
-- commit, so versions have no gaps and a reader that sees version n sees every one before it. The
-- lock is taken last of all, so that it can close no cycle with locks on other rows.
-- A transaction that needs its version runs `set constraints all immediate` and reads the head.
--
-- `nonce` is drawn per version. A reader that holds another nonce for the version it stands at
-- looks at a database that was restored or failed over, and starts anew.
-- `ids` null means: reload everything of the kind.

create table change_head (
    one         boolean primary key default true check (one),
    version     bigint not null,
    nonce       bigint not null,
    -- Changes from this version on are kept; a reader that stands before it starts anew.
    min_version bigint not null
) with (fillfactor = 30);

create table change_feed (
    seq        bigint generated always as identity primary key,
    version    bigint,
    xid        xid8 not null default pg_current_xact_id(),
    nonce      bigint,
    kind       text not null,
    ids        text[],
    created_at timestamptz not null default clock_timestamp()
);
create index change_feed_version on change_feed (version);
create index change_feed_unnumbered on change_feed (xid) where version is null;

-- The version that a writer waits for. Apart from the head, so that raising it waits for nobody.
create table change_ack (
    one    boolean primary key default true check (one),
    wanted bigint not null default 0
) with (fillfactor = 30);
insert into change_ack default values;

-- Numbers start at 1 with a row of their own, so that every version that can be stood at has a
-- nonce to compare.
insert into change_feed (version, nonce, kind, ids)
values (1, (random() * 9e18)::bigint, 'start', '{}');
insert into change_head (version, nonce, min_version)
select version, nonce, version from change_feed;

-- Arguments: the kind, and the SQL expression of a row's id. A rename changes both ids.
create function note_change() returns trigger language plpgsql as $$
declare
    changed text[];
begin
    if tg_op <> 'TRUNCATE' then
        execute 'select array_agg(id) from (' || format(
            case tg_op
                when 'INSERT' then 'select distinct %1$s as id from new_rows limit 1001'
                when 'DELETE' then 'select distinct %1$s as id from old_rows limit 1001'
                else '(select %1$s as id from new_rows union select %1$s from old_rows) limit 1001'
            end, tg_argv[1]) || ') as changed'
        into changed;
        if changed is null then
            return null;
        end if;
    end if;
    insert into change_feed (kind, ids)
    values (tg_argv[0], case when cardinality(changed) <= 1000 then changed end);
    return null;
end
$$;

create function number_changes() returns trigger language plpgsql as $$
declare
    this_version bigint;
    this_nonce   bigint := (random() * 9e18)::bigint;
begin
    if exists (select from change_feed where xid = pg_current_xact_id() and version is null) then
        update change_head set version = version + 1, nonce = this_nonce
        returning version into this_version;
        update change_feed set version = this_version, nonce = this_nonce
        where xid = pg_current_xact_id() and version is null;
    end if;
    return null;
end
$$;

create constraint trigger number_changes after insert on change_feed
    deferrable initially deferred for each row
    when (new.version is null)
    execute function number_changes();

-- Makes a table watched; also for tables of later migrations.
create function watch_table(p_table regclass, p_kind text, p_id text) returns void
language plpgsql as $$
begin
    execute format(
        'create trigger feed_insert after insert on %s referencing new table as new_rows '
        'for each statement execute function note_change(%L, %L)', p_table, p_kind, p_id);
    execute format(
        'create trigger feed_update after update on %s '
        'referencing old table as old_rows new table as new_rows '
        'for each statement execute function note_change(%L, %L)', p_table, p_kind, p_id);
    execute format(
        'create trigger feed_delete after delete on %s referencing old table as old_rows '
        'for each statement execute function note_change(%L, %L)', p_table, p_kind, p_id);
    execute format(
        'create trigger feed_truncate after truncate on %s '
        'for each statement execute function note_change(%L, %L)', p_table, p_kind, p_id);
end
$$;

-- A deprecated key is a key to its readers. The two ids of a membership are joined by the unit
-- separator, which is in no id that a client can type.
select watch_table('virtual_key', 'key', 'token');
select watch_table('deprecated_virtual_key', 'key', 'token');
select watch_table('app_user', 'user', 'user_id');
select watch_table('team', 'team', 'team_id');
select watch_table('team_member', 'team_member', 'team_id || chr(31) || user_id');
select watch_table('organization', 'organization', 'organization_id');
select watch_table(
    'organization_member', 'organization_member', 'organization_id || chr(31) || user_id');
select watch_table('budget', 'budget', 'budget_id');
select watch_table('end_user', 'end_user', 'end_user_id');
select watch_table('tag', 'tag', 'name');
select watch_table('project', 'project', 'project_id');
select watch_table('model', 'model', 'model_id');
select watch_table('credential', 'credential', 'credential_name');
select watch_table('config', 'config', 'param_name');
select watch_table('model_access_group', 'model_access_group', 'access_group');
select watch_table('access_group', 'access_group', 'access_group_id');
select watch_table('object_permission', 'object_permission', 'object_permission_id');

-- Drops changes that are both older than p_keep and further back than p_keep_versions. The row of
-- the oldest kept version stays, for its nonce. Returns how many rows went.
create function trim_change_feed(
    p_keep interval default '1 hour', p_keep_versions bigint default 10000
) returns bigint language plpgsql as $$
declare
    oldest  bigint;
    trimmed bigint;
begin
    select max(f.version) into oldest from change_feed f, change_head h
    where f.version <= h.version - p_keep_versions and f.created_at < clock_timestamp() - p_keep;
    if oldest is null then
        return 0;
    end if;
    -- Readers compare with min_version in the snapshot of their page: first raised, then deleted.
    update change_head set min_version = greatest(min_version, oldest);
    delete from change_feed where version < oldest;
    get diagnostics trimmed = row_count;
    return trimmed;
end
$$;

-- A budget as documents hold it.
create function budget_document(b budget) returns jsonb language sql immutable as $$
    select jsonb_build_object(
        'budget_id', b.budget_id, 'max_budget', b.max_budget, 'soft_budget', b.soft_budget,
        'budget_duration', b.budget_duration, 'rpm_limit', b.rpm_limit,
        'tpm_limit', b.tpm_limit, 'max_parallel_requests', b.max_parallel_requests,
        'model_max_budget', b.model_max_budget, 'allowed_models', b.allowed_models,
        'temp_budget_increase', b.temp_budget_increase,
        'temp_budget_expiry', b.temp_budget_expiry
    )
$$;

-- Keys and their owners in one document, each owner once. A presented token that is neither a key
-- nor a deprecated one before its revoke_at is absent; owners that do not exist are absent too.
-- `p_stand_ins` are keys that are in no table, as objects with the columns of `virtual_key`: they
-- are found, too. `version` is the feed version of the same snapshot.
-- plpgsql keeps the plan, which takes longer to make than to run. It is made once for tables of any
-- size, hence never of sequential scans.
create function load_principals(p_tokens text[], p_stand_ins jsonb default null) returns jsonb
language plpgsql stable set enable_seqscan = off as $$
begin
    return (
        with found as materialized (
            select p.presented, null::timestamptz as revoke_at, k.*
            from unnest(p_tokens) as p(presented)
            join virtual_key k on k.token = p.presented
            union all
            select d.token, d.revoke_at, k.*
            from deprecated_virtual_key d
            join virtual_key k on k.token = d.active_token
            where d.token = any(p_tokens) and d.revoke_at > clock_timestamp()
              and not exists (select from virtual_key v where v.token = d.token)
            union all
            select s.token, null, s.*
            from jsonb_populate_recordset(null::virtual_key, p_stand_ins) s
        ), teams as materialized (
            select * from team where team_id in (select f.team_id from found f)
        ), members as materialized (
            select team_id, user_id, budget_id from team_member
            where (team_id, user_id) in (select f.team_id, f.user_id from found f)
        ), places as materialized (
            select f.user_id, coalesce(f.organization_id, t.organization_id) as organization_id
            from found f left join teams t using (team_id)
        ), organizations as materialized (
            select * from organization
            where organization_id in (select p.organization_id from places p)
        ), organization_members as materialized (
            select organization_id, user_id, budget_id from organization_member
            where (organization_id, user_id) in (select p.organization_id, p.user_id from places p)
        ), projects as materialized (
            select * from project where project_id in (select f.project_id from found f)
        )
        select jsonb_build_object(
            'version', (select version from change_head),
            'keys', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'presented', presented, 'revoke_at', revoke_at, 'token', token,
                    'origin', (select o.origin from key_origin o where o.token = found.token),
                    'key_name', key_name, 'key_alias', key_alias, 'user_id', user_id,
                    'team_id', team_id, 'organization_id', organization_id,
                    'project_id', project_id, 'models', models,
                    'aliases', aliases, 'allowed_routes', allowed_routes, 'metadata', metadata,
                    'expires', expires, 'blocked', coalesce(blocked, false),
                    'max_budget', max_budget, 'budget_duration', budget_duration,
                    'budget_limits', budget_limits, 'model_max_budget', model_max_budget,
                    'budget_id', budget_id, 'end_user_budget_id', end_user_budget_id,
                    'rpm_limit', rpm_limit, 'tpm_limit', tpm_limit,
                    'max_parallel_requests', max_parallel_requests,
                    'access_group_ids', access_group_ids
                )), '[]') from found
            ),
            'users', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'user_id', user_id, 'user_email', user_email, 'user_role', user_role,
                    'models', models, 'max_budget', max_budget, 'budget_duration', budget_duration,
                    'budget_limits', budget_limits, 'model_max_budget', model_max_budget,
                    'rpm_limit', rpm_limit, 'tpm_limit', tpm_limit,
                    'max_parallel_requests', max_parallel_requests
                )), '[]') from app_user where user_id in (select f.user_id from found f)
            ),
            'teams', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'team_id', team_id, 'team_alias', team_alias,
                    'organization_id', organization_id, 'models', models, 'blocked', blocked,
                    'metadata', metadata, 'model_aliases', model_aliases,
                    'max_budget', max_budget, 'budget_duration', budget_duration,
                    'budget_limits', budget_limits, 'model_max_budget', model_max_budget,
                    'rpm_limit', rpm_limit, 'tpm_limit', tpm_limit,
                    'max_parallel_requests', max_parallel_requests,
                    'access_group_ids', access_group_ids,
                    'default_team_member_models', default_team_member_models
                )), '[]') from teams
            ),
            'members', (select coalesce(jsonb_agg(to_jsonb(m)), '[]') from members m),
            'organizations', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'organization_id', organization_id, 'budget_id', budget_id, 'models', models,
                    'metadata', metadata
                )), '[]') from organizations
            ),
            'organization_members', (
                select coalesce(jsonb_agg(to_jsonb(m)), '[]') from organization_members m
            ),
            'projects', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'project_id', project_id, 'budget_id', budget_id, 'models', models,
                    'blocked', blocked, 'metadata', metadata
                )), '[]') from projects
            ),
            'access_groups', (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'access_group_id', access_group_id, 'access_model_names', access_model_names
                )), '[]') from access_group where access_group_id in (
                    select unnest(f.access_group_ids) from found f
                    union select unnest(t.access_group_ids) from teams t)
            ),
            'budgets', (
                select coalesce(jsonb_agg(budget_document(b)), '[]')
                from budget b where b.budget_id in (
                    select f.budget_id from found f
                    union all select f.end_user_budget_id from found f
                    union all select t.metadata ->> 'team_member_budget_id' from teams t
                    union all select m.budget_id from members m
                    union all select o.budget_id from organizations o
                    union all select m.budget_id from organization_members m
                    union all select p.budget_id from projects p)
            )
        )
    );
end
$$;

-- What calls name besides their keys, with their budgets: `[{"kind", "id", "budget", "blocked",
-- "models"}]`. What has no row is absent.
create function load_subjects(
    p_end_users text[], p_tags text[], p_groups text[], p_budgets text[]
) returns jsonb language sql stable as $$
    select coalesce(jsonb_agg(jsonb_build_object(
        'kind', s.kind, 'id', s.id, 'blocked', s.blocked, 'models', s.models,
        'budget', (select budget_document(b) from budget b where b.budget_id = s.budget_id)
    )), '[]')
    from (
        select 'end_user' as kind, end_user_id as id, blocked, models, budget_id
        from end_user where end_user_id = any(p_end_users)
        union all
        select 'tag', name, false, '{}', budget_id from tag where name = any(p_tags)
        union all
        select 'model_access_group', access_group, false, '{}', budget_id
        from model_access_group where access_group = any(p_groups)
        union all
        select 'budget', budget_id, false, '{}', budget_id
        from budget where budget_id = any(p_budgets)
    ) s
$$;

-- The ids that have rules, by kind; null where they are more than p_most. Readers that know them
-- need not ask for others.
create function subject_names(p_most integer) returns jsonb language sql stable as $$
    select jsonb_build_object(
        'end_user', (
            select case when count(*) <= p_most then coalesce(jsonb_agg(id), '[]') end
            from (select end_user_id as id from end_user
                  where blocked or budget_id is not null or models <> '{}'
                  limit p_most + 1) n),
        'tag', (
            select case when count(*) <= p_most then coalesce(jsonb_agg(id), '[]') end
            from (select name as id from tag where budget_id is not null limit p_most + 1) n),
        'model_access_group', (
            select case when count(*) <= p_most then coalesce(jsonb_agg(id), '[]') end
            from (select access_group as id from model_access_group
                  where budget_id is not null limit p_most + 1) n)
    )
$$;
