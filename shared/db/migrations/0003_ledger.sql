-- The ledger: one row per call, what it adds to counters, roll-ups and budgets, and how far each
-- journal has been posted. Nothing here is watched by the change feed.

-- Where calls come in and where they go: the long names that thousands of calls share, once.
create table call_path (
    id            integer generated always as identity primary key,
    route         text collate "C" not null,
    model         text collate "C" not null,
    model_group   text collate "C" not null,
    deployment_id text collate "C" not null,
    provider      text collate "C" not null,
    api_base      text collate "C" not null,
    region        text collate "C" not null,
    instance      text collate "C" not null,
    unique (route, model, model_group, deployment_id, provider, api_base, region, instance)
);
comment on column call_path.route is 'call_type of the spend-log row on the wire';

-- Who pays for calls. An absent owner is '', so that rows compare by plain equality.
create table call_payer (
    id              integer generated always as identity primary key,
    key             text collate "C" not null,
    key_alias       text collate "C" not null,
    user_id         text collate "C" not null,
    team_id         text collate "C" not null,
    organization_id text collate "C" not null,
    project_id      text collate "C" not null default '',
    unique (key, key_alias, user_id, team_id, organization_id, project_id)
);
create index call_payer_user on call_payer (user_id) where user_id <> '';
create index call_payer_team on call_payer (team_id) where team_id <> '';
comment on column call_payer.key is 'stored form of the virtual key (hash), never the plain key';

-- Every call, partitioned by day through its id: ids hold the milliseconds since the epoch in
-- their upper 48 bits, so the id alone is the primary key, and bounds on it prune by time.
-- Fixed-width columns come first, which saves padding. Read it through spend_row.
create table spend_log (
    id                 uuid not null,
    started_at         timestamptz not null,
    ended_at           timestamptz not null,
    ttft_ms            integer,
    prompt_tokens      integer not null,
    completion_tokens  integer not null,
    cached_tokens      integer not null,
    cache_write_tokens integer not null,
    reasoning_tokens   integer not null,
    path_id            integer not null,
    payer_id           integer not null,
    http_status        smallint not null,
    attempts           smallint not null,
    estimated          boolean not null,
    stream             boolean not null,
    cost               numeric(20, 10) not null,
    status             text not null,
    end_user           text,
    session_id         text,
    requester_ip       text,
    error_type         text,
    upstream_id        text,
    tags               text[],
    primary key (id),
    constraint spend_log_status
        check (status in ('success', 'failure', 'client_closed', 'interrupted')),
    -- NaN sorts above all numbers and would poison every sum that it enters.
    constraint spend_log_cost check (cost >= 0 and cost <> 'NaN')
) partition by range (id);

-- Equal values are stored once per index page, so these are small.
create index spend_log_payer on spend_log (payer_id);
create index spend_log_path on spend_log (path_id);
create index spend_log_fault on spend_log (status, http_status) where status <> 'success';
create index spend_log_end_user on spend_log (end_user) where end_user is not null;
create index spend_log_session on spend_log (session_id) where session_id is not null;

-- Takes ids of days that have no partition. Should be empty.
create table spend_log_default partition of spend_log default;

-- A call as the spend pages and the API show it.
create view spend_row as
select l.id, l.started_at, l.ended_at, l.ttft_ms, l.status, l.http_status, p.route, p.model,
    p.model_group, p.deployment_id, p.provider, p.api_base, p.region, p.instance, o.key,
    nullif(o.key_alias, '') as key_alias, nullif(o.user_id, '') as user_id,
    nullif(o.team_id, '') as team_id, nullif(o.organization_id, '') as organization_id,
    nullif(o.project_id, '') as project_id, l.end_user, l.prompt_tokens, l.completion_tokens,
    l.cached_tokens, l.cache_write_tokens, l.reasoning_tokens, l.estimated, l.cost, l.tags, l.session_id, l.requester_ip, l.attempts,
    l.error_type, l.upstream_id, l.stream
from spend_log l join call_path p on p.id = l.path_id join call_payer o on o.id = l.payer_id;

-- The lowest id of an instant.
create function spend_log_floor(p_at timestamptz) returns uuid
language sql immutable parallel safe as $$
    select (lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Whether a day has its partition. A query, because lookups by name may answer from a cache that
-- taking an advisory lock does not refresh.
create function spend_log_has(p_name text) returns boolean
language sql volatile as $$
    select exists (
        select from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'spend_log'::regclass and c.relname = p_name)
$$;

-- Makes the day partitions (UTC) from yesterday to p_days ahead that are missing, and returns how
-- many. Rows that have waited in the default partition move to where they belong. Any number may
-- call at once; writers of other days are not held up.
create function spend_log_ensure_partitions(
    p_days integer, p_now timestamptz default clock_timestamp()
) returns integer
language plpgsql as $$
declare
    v_day   date;
    v_today date := (p_now at time zone 'UTC')::date;
    v_name  text;
    v_low   uuid;
    v_high  uuid;
    v_made  integer := 0;
begin
    for v_offset in -1 .. p_days loop
        v_day := v_today + v_offset;
        v_name := 'spend_log_' || to_char(v_day, 'YYYYMMDD');
        continue when spend_log_has(v_name);
        perform pg_advisory_xact_lock(hashtext('spend_log_partitions'));
        continue when spend_log_has(v_name);
        v_low := spend_log_floor(v_day::timestamp at time zone 'UTC');
        v_high := spend_log_floor((v_day + 1)::timestamp at time zone 'UTC');
        -- Attaching takes a weaker lock on the parent than creating a partition in place.
        execute format('create table %I (like spend_log including all)', v_name);
        lock table spend_log_default in access exclusive mode;
        execute format(
            'with moved as (delete from spend_log_default where id >= %L and id < %L returning *)'
            ' insert into %I select * from moved', v_low, v_high, v_name);
        execute format('alter table spend_log attach partition %I for values from (%L) to (%L)',
            v_name, v_low, v_high);
        v_made := v_made + 1;
    end loop;
    return v_made;
end $$;

-- Retention: drops the day partitions that end at or before p_before and returns how many.
-- Waits for its lock at most two seconds, since calls queue behind it; the caller tries again.
create function spend_log_drop_before(p_before timestamptz) returns integer
language plpgsql set lock_timeout = '2s' as $$
declare
    v_name    text;
    v_dropped integer := 0;
begin
    for v_name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'spend_log'::regclass and c.relname ~ '^spend_log_\d{8}$'
          and (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
              <= p_before
        order by c.relname
    loop
        execute format('drop table %I', v_name);
        v_dropped := v_dropped + 1;
    end loop;
    return v_dropped;
end $$;

-- How far each segment of a journal has been posted. A batch is taken only from where the last
-- one ended, so a replay adds nothing even when retention has dropped its rows.
-- Segment -1 counts the calls that a journal's adopter has recorded as interrupted.
create table journal_cursor (
    journal  uuid not null,
    segment  integer not null,
    position bigint not null,
    primary key (journal, segment)
) with (fillfactor = 50);

-- Rows that the database refuses. They stop nothing and need an operator.
create table ledger_rejected (
    journal     uuid not null,
    segment     integer not null,
    position    bigint not null,
    instance    text not null,
    boot        bigint not null,
    rejected_at timestamptz not null default clock_timestamp(),
    sqlstate    text not null,
    reason      text not null,
    payload     bytea not null,
    primary key (journal, segment, position)
);

-- What an owner has spent. window_start_s is seconds since the epoch, 0 for the lifetime total.
-- kind: key (id: the first token of a rotated one, see key_origin), user, team, team_member (id
-- `user:team`), organization, organization_member (id `user:organization`), project, end_user, tag,
-- global (id ''), or whatever a budget scope `kind:id` names. Readers sum over shards; only 0 is
-- written today.
create table spend_counter (
    kind              text collate "C" not null,
    id                text collate "C" not null,
    window_start_s    bigint not null default 0,
    shard             smallint not null default 0,
    spend             numeric not null default 0,
    calls             bigint not null default 0,
    prompt_tokens     bigint not null default 0,
    completion_tokens bigint not null default 0,
    primary key (kind, id, window_start_s, shard)
) with (fillfactor = 50);

-- Spend per UTC day of the call's start. kind: key, user, team, organization, end_user, tag.
-- Every call is in exactly one row of kind `key`, so global figures are sums over that kind;
-- deployment_id is '' for the other kinds, which need no breakdown by it.
create table daily_spend (
    kind               text collate "C" not null,
    id                 text collate "C" not null,
    day                date not null,
    key                text collate "C" not null,
    model_group        text collate "C" not null,
    model              text collate "C" not null,
    provider           text collate "C" not null,
    route              text collate "C" not null,
    deployment_id      text collate "C" not null,
    spend              numeric not null,
    prompt_tokens      bigint not null,
    completion_tokens  bigint not null,
    cached_tokens      bigint not null,
    cache_write_tokens bigint not null,
    reasoning_tokens   bigint not null,
    calls              bigint not null,
    successes          bigint not null,
    failures           bigint not null,
    duration_ms        bigint not null,
    primary key (kind, id, day, key, model_group, model, provider, route, deployment_id)
) partition by list (kind);
create index daily_spend_day on daily_spend (day);

-- Pages read one kind, and kinds differ much in size.
create table daily_spend_key partition of daily_spend for values in ('key')
    with (fillfactor = 80);
create table daily_spend_user partition of daily_spend for values in ('user')
    with (fillfactor = 80);
create table daily_spend_team partition of daily_spend for values in ('team')
    with (fillfactor = 80);
create table daily_spend_organization partition of daily_spend for values in ('organization')
    with (fillfactor = 80);
create table daily_spend_end_user partition of daily_spend for values in ('end_user')
    with (fillfactor = 80);
create table daily_spend_tag partition of daily_spend for values in ('tag')
    with (fillfactor = 80);
create table daily_spend_default partition of daily_spend default with (fillfactor = 80);
comment on column daily_spend.successes is 'status success or client_closed';
comment on column daily_spend.failures is 'status failure or interrupted';

-- The same without models, for pages over all owners of a kind: an end user's or a tag's rows of
-- daily_spend are about as many as its calls.
create table daily_owner_spend (
    kind               text collate "C" not null,
    day                date not null,
    id                 text collate "C" not null,
    spend              numeric not null,
    prompt_tokens      bigint not null,
    completion_tokens  bigint not null,
    cached_tokens      bigint not null,
    cache_write_tokens bigint not null,
    reasoning_tokens   bigint not null,
    calls              bigint not null,
    successes          bigint not null,
    failures           bigint not null,
    duration_ms        bigint not null,
    primary key (kind, day, id)
) with (fillfactor = 80);

-- The same of all calls that have an owner of the kind, each once, whoever it is; every call has
-- one of kind `key`.
create table daily_model_spend (
    kind               text collate "C" not null,
    day                date not null,
    model_group        text collate "C" not null,
    model              text collate "C" not null,
    provider           text collate "C" not null,
    route              text collate "C" not null,
    deployment_id      text collate "C" not null,
    spend              numeric not null,
    prompt_tokens      bigint not null,
    completion_tokens  bigint not null,
    cached_tokens      bigint not null,
    cache_write_tokens bigint not null,
    reasoning_tokens   bigint not null,
    calls              bigint not null,
    successes          bigint not null,
    failures           bigint not null,
    duration_ms        bigint not null,
    primary key (kind, day, model_group, model, provider, route, deployment_id)
) with (fillfactor = 50);

-- Money that a process (instance and boot number) has been granted and has not yet spent.
-- Grants add, the ledger subtracts what was spent, so what is left of a budget is always
-- limit - spend - sum(held). Below zero: the owner has spent more than it was granted so far.
create table budget_hold (
    scope          text collate "C" not null,
    window_start_s bigint not null,
    instance       text collate "C" not null,
    boot           bigint not null,
    held           numeric not null default 0,
    primary key (scope, window_start_s, instance, boot)
) with (fillfactor = 50);
create index budget_hold_owner on budget_hold (instance, boot);

-- Whose counter a budget scope `kind:id` reads. Several budgets of one owner have scopes of their
-- own, a unit separator and the budget's period behind the id, but the same counters.
create function budget_owner(p_scope text) returns text
language sql immutable parallel safe as $$
    select split_part(substr(p_scope, length(split_part(p_scope, ':', 1)) + 2), chr(31), 1)
$$;

-- Takes what was spent off the holds of one owner. The arrays run in parallel. A dead owner's hold
-- may have been released already: then nothing is left to take it from, and none is made.
create function budget_settle(
    p_instance text, p_boot bigint, p_scopes text[], p_windows bigint[], p_amounts numeric[],
    p_owner_dead boolean default false
) returns void
language plpgsql as $$
begin
    if p_owner_dead then
        perform from budget_hold h
            where h.instance = p_instance and h.boot = p_boot and h.scope = any (p_scopes)
            order by h.scope, h.window_start_s for update;
        update budget_hold h set held = h.held - s.amount
        from (select scope, window_start_s, sum(amount) as amount
              from unnest(p_scopes, p_windows, p_amounts) as u (scope, window_start_s, amount)
              group by 1, 2) s
        where h.scope = s.scope and h.window_start_s = s.window_start_s
          and h.instance = p_instance and h.boot = p_boot;
    else
        insert into budget_hold as h (scope, window_start_s, instance, boot, held)
        select u.scope, u.window_start_s, p_instance, p_boot, -sum(u.amount)
        from unnest(p_scopes, p_windows, p_amounts) as u (scope, window_start_s, amount)
        group by 1, 2
        order by 1, 2
        on conflict (scope, window_start_s, instance, boot)
            do update set held = h.held + excluded.held;
    end if;
end $$;

-- The counters and roll-ups that a call belongs to, whatever its budgets are.
create function spend_owners(r spend_row) returns table (kind text, id text)
language sql immutable as $$
    select o.kind, o.id
    from (values ('key', r.key), ('user', r.user_id), ('team', r.team_id),
                 ('team_member', r.user_id || ':' || r.team_id),
                 ('organization', r.organization_id),
                 ('organization_member', r.user_id || ':' || r.organization_id),
                 ('project', r.project_id), ('end_user', r.end_user),
                 ('global', '')) as o (kind, id)
    where o.id is not null
    union all
    select distinct 'tag', t from unnest(r.tags) as t
$$;

-- Moves a journal's cursor from p_from to p_to. True when it stood there; else p_stored says where.
create function journal_advance(
    p_journal uuid, p_segment integer, p_from bigint, p_to bigint, out moved boolean,
    out stored bigint
)
language plpgsql as $$
begin
    if p_from = 0 then
        insert into journal_cursor as c (journal, segment, position)
        values (p_journal, p_segment, p_to)
        on conflict (journal, segment) do update set position = excluded.position
            where c.position = 0;
    else
        update journal_cursor c set position = p_to
        where c.journal = p_journal and c.segment = p_segment and c.position = p_from;
    end if;
    moved := found;
    stored := p_to;
    if not moved then
        select coalesce(max(c.position), 0) into stored from journal_cursor c
        where c.journal = p_journal and c.segment = p_segment;
    end if;
end $$;

-- Makes the paths and payers of a batch that are new, in key order.
create function ledger_names(p_instance text, p_rows jsonb) returns void
language plpgsql as $$
begin
    insert into call_path (
        route, model, model_group, deployment_id, provider, api_base, region, instance)
    select distinct r.*, p_instance
    from jsonb_to_recordset(p_rows) as r (
        route text, model text, model_group text, deployment_id text, provider text,
        api_base text, region text)
    where not exists (
        select from call_path p
        where p.instance = p_instance and p.route = r.route and p.model = r.model
          and p.model_group = r.model_group and p.deployment_id = r.deployment_id
          and p.provider = r.provider and p.api_base = r.api_base and p.region = r.region)
    order by 1, 2, 3, 4, 5, 6, 7
    on conflict do nothing;

    insert into call_payer (key, key_alias, user_id, team_id, organization_id, project_id)
    select distinct r.key, coalesce(r.key_alias, ''), coalesce(r.user_id, ''),
        coalesce(r.team_id, ''), coalesce(r.organization_id, ''), coalesce(r.project_id, '')
    from jsonb_to_recordset(p_rows) as r (
        key text, key_alias text, user_id text, team_id text, organization_id text,
        project_id text)
    where not exists (
        select from call_payer o
        where o.key = r.key and o.key_alias = coalesce(r.key_alias, '')
          and o.user_id = coalesce(r.user_id, '') and o.team_id = coalesce(r.team_id, '')
          and o.organization_id = coalesce(r.organization_id, '')
          and o.project_id = coalesce(r.project_id, ''))
    order by 1, 2, 3, 4, 5, 6
    on conflict do nothing;
end $$;

-- Posts one batch: p_rows is an array of pairs, a call's two journal records. What the second one
-- says stands for what the first one said.
-- One statement, one round trip. Rows whose id is known are skipped; exactly what was inserted is
-- added elsewhere. Tables are locked in the order cursor, names, log, daily_spend, activity,
-- counters, the compact roll-ups, holds, each in key order, so that writers cannot deadlock; the
-- rows that all share come late.
-- Answers whether the batch was taken, where the cursor stands, and how many rows were new.
create function ledger_apply(
    p_journal uuid, p_segment integer, p_from bigint, p_to bigint,
    p_instance text, p_boot bigint, p_rows jsonb, p_owner_dead boolean default false,
    out applied boolean, out stored bigint, out inserted integer
)
language plpgsql as $$
#variable_conflict use_column
declare
    v_ids     uuid[];
    v_rows    spend_row[];
    v_calls   uuid[];
    v_scopes  text[];
    v_windows bigint[];
    v_costs   numeric[];
    v_said    jsonb;
    v_days    daily_spend[];
begin
    inserted := 0;
    select a.moved, a.stored into applied, stored
    from journal_advance(p_journal, p_segment, p_from, p_to) a;
    if not applied then
        return;
    end if;
    select coalesce(jsonb_agg((e -> 0) || jsonb_strip_nulls(e -> 1)), '[]') into v_said
    from jsonb_array_elements(p_rows) e;
    perform ledger_names(p_instance, v_said);

    with new_rows as (
        insert into spend_log (
            id, started_at, ended_at, ttft_ms, prompt_tokens, completion_tokens, cached_tokens,
            cache_write_tokens, reasoning_tokens, path_id, payer_id, http_status, attempts,
            estimated, stream, cost, status, end_user, session_id, requester_ip, error_type,
            upstream_id, tags)
        select
            r.id, to_timestamp(r.started_s), to_timestamp(r.ended_s), round(r.ttft_s * 1000),
            coalesce(r.prompt_tokens, 0), coalesce(r.completion_tokens, 0),
            coalesce(r.cached_tokens, 0), coalesce(r.cache_write_tokens, 0),
            coalesce(r.reasoning_tokens, 0), p.id, o.id, r.http_status,
            coalesce(r.attempts, 1), coalesce(r.estimated, false), r.stream, r.cost, r.status,
            nullif(r.end_user, ''), r.session_id, r.requester_ip, r.error_type, r.upstream_id,
            nullif(r.tags, '{}')
        from jsonb_to_recordset(v_said) as r (
            id uuid, started_s float8, ended_s float8, ttft_s float8, prompt_tokens integer,
            completion_tokens integer, cached_tokens integer, cache_write_tokens integer,
            reasoning_tokens integer, http_status smallint, attempts smallint, estimated boolean,
            stream boolean, cost numeric, status text, route text, model text, model_group text,
            deployment_id text, provider text, api_base text, region text, key text,
            key_alias text, user_id text, team_id text, organization_id text, project_id text,
            end_user text, session_id text, requester_ip text, error_type text, upstream_id text,
            tags text[])
        -- left: a row that lacks a name must fail on its id, not vanish.
        left join call_path p
            on p.instance = p_instance and p.route = r.route and p.model = r.model
            and p.model_group = r.model_group and p.deployment_id = r.deployment_id
            and p.provider = r.provider and p.api_base = r.api_base and p.region = r.region
        left join call_payer o
            on o.key = r.key and o.key_alias = coalesce(r.key_alias, '')
            and o.user_id = coalesce(r.user_id, '') and o.team_id = coalesce(r.team_id, '')
            and o.organization_id = coalesce(r.organization_id, '')
            and o.project_id = coalesce(r.project_id, '')
        order by r.id
        on conflict (id) do nothing
        returning id)
    select array_agg(n.id) into v_ids from new_rows n;
    if v_ids is null then
        return;
    end if;
    inserted := cardinality(v_ids);
    -- As stored: the cost is rounded there, and the sums must be sums of what is shown.
    select array_agg(r) into v_rows from spend_row r where r.id = any (v_ids);

    select array_agg(row(d.*)::daily_spend) into v_days
    from (
        select o.kind collate "C", o.id collate "C", (r.started_at at time zone 'UTC')::date,
            r.key, r.model_group, r.model, r.provider, r.route,
            case when o.kind = 'key' then r.deployment_id else '' end,
            sum(r.cost), sum(r.prompt_tokens), sum(r.completion_tokens), sum(r.cached_tokens),
            sum(r.cache_write_tokens), sum(r.reasoning_tokens), count(*),
            count(*) filter (where r.status in ('success', 'client_closed')),
            count(*) filter (where r.status in ('failure', 'interrupted')),
            sum(round(extract(epoch from r.ended_at - r.started_at) * 1000)::bigint)
        from unnest(v_rows) r cross join lateral spend_owners(r) o
        where o.kind not in ('team_member', 'organization_member', 'project', 'global')
        group by 1, 2, 3, 4, 5, 6, 7, 8, 9
    ) d;
    insert into daily_spend as t
    select d.* from unnest(v_days) d
    order by 1, 2, 3, 4, 5, 6, 7, 8, 9
    on conflict (kind, id, day, key, model_group, model, provider, route, deployment_id)
    do update set
        spend = t.spend + excluded.spend,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens,
        cache_write_tokens = t.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = t.reasoning_tokens + excluded.reasoning_tokens,
        calls = t.calls + excluded.calls,
        successes = t.successes + excluded.successes,
        failures = t.failures + excluded.failures,
        duration_ms = t.duration_ms + excluded.duration_ms;

    insert into key_activity as t (token, last_active)
    select r.key, max(r.ended_at) from unnest(v_rows) r group by 1 order by 1
    on conflict (token) do update set last_active = greatest(t.last_active, excluded.last_active);

    -- A call may name a window twice (two budgets of one owner); it is charged once.
    select coalesce(array_agg(c.call), '{}'), coalesce(array_agg(c.scope), '{}'),
        coalesce(array_agg(c.window_start_s), '{}'), coalesce(array_agg(r.cost), '{}')
    into v_calls, v_scopes, v_windows, v_costs
    from unnest(v_rows) r
    join (select distinct (e ->> 'id')::uuid as call, c ->> 'scope' as scope,
              coalesce((c ->> 'window_start_s')::bigint, 0) as window_start_s
          from jsonb_array_elements(v_said) e
          cross join lateral jsonb_array_elements(coalesce(e -> 'charges', '[]')) c) c
        on c.call = r.id;

    -- union, not union all: a charge to a lifetime budget is the owner's lifetime row.
    insert into spend_counter as t (
        kind, id, window_start_s, shard, spend, calls, prompt_tokens, completion_tokens)
    select m.kind collate "C", m.owner collate "C", m.window_start_s, 0, sum(r.cost), count(*),
        sum(r.prompt_tokens), sum(r.completion_tokens)
    from (
        select r.id as call, o.kind,
            coalesce((select k.origin from key_origin k where o.kind = 'key' and k.token = o.id),
                o.id) as owner,
            0::bigint as window_start_s
        from unnest(v_rows) r cross join lateral spend_owners(r) o
        union
        select c.call, split_part(c.scope, ':', 1), budget_owner(c.scope), c.window_start_s
        from unnest(v_calls, v_scopes, v_windows) as c (call, scope, window_start_s)
    ) m join unnest(v_rows) r on r.id = m.call
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict (kind, id, window_start_s, shard) do update set
        spend = t.spend + excluded.spend,
        calls = t.calls + excluded.calls,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens;

    insert into daily_owner_spend as t
    select d.kind, d.day, d.id, sum(d.spend), sum(d.prompt_tokens), sum(d.completion_tokens),
        sum(d.cached_tokens), sum(d.cache_write_tokens), sum(d.reasoning_tokens), sum(d.calls),
        sum(d.successes), sum(d.failures), sum(d.duration_ms)
    from unnest(v_days) d
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict (kind, day, id) do update set
        spend = t.spend + excluded.spend,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens,
        cache_write_tokens = t.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = t.reasoning_tokens + excluded.reasoning_tokens,
        calls = t.calls + excluded.calls,
        successes = t.successes + excluded.successes,
        failures = t.failures + excluded.failures,
        duration_ms = t.duration_ms + excluded.duration_ms;

    insert into daily_model_spend as t
    select k.kind collate "C", (r.started_at at time zone 'UTC')::date, r.model_group, r.model,
        r.provider, r.route, r.deployment_id,
        sum(r.cost), sum(r.prompt_tokens), sum(r.completion_tokens), sum(r.cached_tokens),
        sum(r.cache_write_tokens), sum(r.reasoning_tokens), count(*),
        count(*) filter (where r.status in ('success', 'client_closed')),
        count(*) filter (where r.status in ('failure', 'interrupted')),
        sum(round(extract(epoch from r.ended_at - r.started_at) * 1000)::bigint)
    from unnest(v_rows) r
    cross join lateral (
        values ('key', true), ('user', r.user_id is not null), ('team', r.team_id is not null),
            ('organization', r.organization_id is not null),
            ('end_user', r.end_user is not null), ('tag', r.tags is not null)) k (kind, has)
    where k.has
    group by 1, 2, 3, 4, 5, 6, 7
    order by 1, 2, 3, 4, 5, 6, 7
    on conflict (kind, day, model_group, model, provider, route, deployment_id) do update set
        spend = t.spend + excluded.spend,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens,
        cache_write_tokens = t.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = t.reasoning_tokens + excluded.reasoning_tokens,
        calls = t.calls + excluded.calls,
        successes = t.successes + excluded.successes,
        failures = t.failures + excluded.failures,
        duration_ms = t.duration_ms + excluded.duration_ms;

    perform budget_settle(p_instance, p_boot, v_scopes, v_windows, v_costs, p_owner_dead);
end $$;

-- Sets one refused row aside and moves the cursor past it.
create function ledger_reject(
    p_journal uuid, p_segment integer, p_from bigint, p_to bigint, p_instance text, p_boot bigint,
    p_payload bytea, p_sqlstate text, p_reason text, out applied boolean, out stored bigint
)
language plpgsql as $$
begin
    select a.moved, a.stored into applied, stored
    from journal_advance(p_journal, p_segment, p_from, p_to) a;
    if applied then
        insert into ledger_rejected (
            journal, segment, position, instance, boot, sqlstate, reason, payload)
        values (p_journal, p_segment, p_to, p_instance, p_boot, p_sqlstate, p_reason, p_payload)
        on conflict do nothing;
    end if;
end $$;

select spend_log_ensure_partitions(7);
