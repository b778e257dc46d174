-- Leases: blocks of allowance that processes take from shared counters and spend locally.
-- Nothing here is watched by the change feed. Owners are instance + boot number.

-- Requests and tokens. A window is counted from a scope's first request and opened and closed by
-- this database's clock; its id is the millisecond at which it opened. `used` is all that has been
-- leased and not given back; `ahead` is what has been leased of the window that follows directly.
create table rate_window (
    scope     text collate "C" not null,
    dimension text collate "C" not null,
    opened_ms bigint not null,
    length_ms bigint not null check (length_ms > 0),
    used      bigint not null default 0,
    ahead     bigint not null default 0,
    primary key (scope, dimension)
) with (fillfactor = 50);

-- Slots for parallel requests. The scope's row is the lock over its holds. `seq` numbers the asks
-- of an owner, so that one which arrives after a later one changes nothing.
create table slot_scope (
    scope text collate "C" primary key
);
create table slot_hold (
    scope    text collate "C" not null,
    instance text collate "C" not null,
    boot     bigint not null,
    held     bigint not null,
    seq      bigint not null,
    asked_at timestamptz not null,
    primary key (scope, instance, boot)
) with (fillfactor = 50);

-- Money. The amounts are in budget_hold, from which the ledger takes what was spent; here is what
-- each owner has been granted in all, so that a grant whose answer was lost is found and undone.
create table money_scope (
    scope          text collate "C" not null,
    window_start_s bigint not null,
    primary key (scope, window_start_s)
);
create table money_lease (
    scope          text collate "C" not null,
    window_start_s bigint not null,
    instance       text collate "C" not null,
    boot           bigint not null,
    lease          bigint not null,
    granted        numeric not null,
    seq            bigint not null,
    asked_at       timestamptz not null,
    primary key (scope, window_start_s, instance, boot)
) with (fillfactor = 50);

-- One scope of an ask. kind: 0 rate, 1 slots, 2 money. Amounts are of one dimension.
--   least        a grant below this is of no use; nothing is granted then
--   need         what waiting requests need together
--   ample,scarce what demand would use soon, while more, or less, than half the limit is left
--   have         what the owner keeps; the new block is this and the grant together
--   give_back    rates: taken off `used` if `window_id` is still open; below zero: a debt
--   owed         rates: used while the database was away, added to `used` whatever the window
--   stated       slots: calls running; money: all that was ever granted less what was given back
--   outstanding  money: reserved by calls that run, and at hand
--   window_id    rates: the window the owner is in; money: window_start_s
--   ahead        rates: lease from the window that follows `window_id`
--   lease        money: changes when the owner starts to count `stated` from nothing
create type lease_item as (
    kind smallint, scope text, dimension text, "limit" numeric, least numeric, need numeric,
    ample numeric, scarce numeric, have numeric, give_back numeric, owed numeric, stated numeric,
    outstanding numeric, window_id bigint, length_ms bigint, ahead boolean,
    lease bigint
);

-- used: of the window, or slots held, or money spent. reserved: money held by all owners.
-- starts_ms, ends_ms: from now, by this clock, for a grant of a rate window.
create type lease_grant as (
    granted numeric, used numeric, reserved numeric, remaining numeric, window_id bigint,
    starts_ms float8, ends_ms float8
);

-- The grant: nothing below the least useful amount, else what is needed, or what demand would use
-- soon as far as that leaves as much for each of p_live owners twice over. p_scale: decimals.
create function lease_size(i lease_item, p_remaining numeric, p_live integer, p_scale integer)
returns numeric language plpgsql immutable as $$
declare
    v_pool   numeric := p_remaining + i.have;
    v_wanted numeric;
begin
    if v_pool <= 0 or v_pool < i.least then
        return 0;
    end if;
    v_wanted := case when 2 * p_remaining > i."limit" then i.ample else i.scarce end;
    v_wanted := least(v_wanted, trunc(v_pool / (2 * greatest(p_live, 1)), p_scale));
    return greatest(0, least(v_pool, greatest(i.need, v_wanted)) - i.have);
end $$;

create function lease_rate(i lease_item, p_live integer, p_now timestamptz) returns lease_grant
language plpgsql as $$
declare
    w           rate_window;
    g           lease_grant;
    v_now_ms    float8;
    v_asks      boolean := i.need > 0 or i.ample > 0;
    v_remaining numeric;
begin
    loop
        select * into w from rate_window r
        where r.scope = i.scope and r.dimension = i.dimension for update;
        -- Read after the lock: the wait for it may have been long.
        v_now_ms := extract(epoch from coalesce(p_now, clock_timestamp()))::float8 * 1000;
        exit when found;
        if not v_asks and i.owed = 0 then
            return (0, 0, 0, i."limit", 0, 0, 0)::lease_grant;
        end if;
        insert into rate_window as r (scope, dimension, opened_ms, length_ms)
        values (i.scope, i.dimension, floor(v_now_ms), i.length_ms) on conflict do nothing;
    end loop;

    -- The second condition: a clock that went back must not hold a window open for long.
    if v_now_ms >= w.opened_ms + w.length_ms or v_now_ms < w.opened_ms - w.length_ms then
        if w.ahead > 0 and v_now_ms >= w.opened_ms
            and v_now_ms < w.opened_ms + 2 * w.length_ms then
            w.opened_ms := w.opened_ms + w.length_ms;
            w.used := w.ahead;
        elsif not v_asks and i.owed = 0 then
            return (0, 0, 0, i."limit", 0, 0, 0)::lease_grant;
        else
            w.opened_ms := floor(v_now_ms);
            w.length_ms := i.length_ms;
            w.used := 0;
        end if;
        w.ahead := 0;
    end if;

    g.window_id := w.opened_ms;
    g.starts_ms := 0;
    g.ends_ms := w.opened_ms + w.length_ms - v_now_ms;
    w.used := w.used + i.owed;
    if i.window_id = w.opened_ms then
        w.used := greatest(0, w.used - i.give_back);
    else
        i.have := 0;
    end if;
    if i.ahead and i.window_id = w.opened_ms then
        i.have := 0;
        v_remaining := i."limit" - w.ahead;
        g.granted := lease_size(i, v_remaining, p_live, 0);
        w.ahead := w.ahead + g.granted;
        g.window_id := w.opened_ms + w.length_ms;
        g.starts_ms := g.ends_ms;
        g.ends_ms := g.ends_ms + w.length_ms;
        g.used := w.ahead;
    else
        v_remaining := i."limit" - w.used;
        g.granted := lease_size(i, v_remaining, p_live, 0);
        w.used := w.used + g.granted;
        g.used := w.used;
    end if;
    g.reserved := 0;
    g.remaining := greatest(0, v_remaining - g.granted);
    update rate_window r
    set opened_ms = w.opened_ms, length_ms = w.length_ms, used = w.used, ahead = w.ahead
    where r.scope = i.scope and r.dimension = i.dimension;
    return g;
end $$;

-- Whether an owner counts: it has asked, or its heartbeat was seen, less than p_ttl ago, or this
-- server has started since then, so that owners can renew what they hold.
create function lease_alive(
    p_instance text, p_boot bigint, p_asked_at timestamptz, p_now timestamptz, p_ttl interval
) returns boolean language sql stable as $$
    select p_now - p_ttl < greatest(
        p_asked_at, pg_postmaster_start_time(),
        (select n.last_seen from instance n where n.id = p_instance and n.boot = p_boot))
$$;

-- Slots go by what the owner states, not by what it was granted before: an owner that was thought
-- dead comes back with the calls that it runs, and a lost answer loses no slot.
create function lease_slots(
    i lease_item, p_instance text, p_boot bigint, p_seq bigint, p_now timestamptz, p_ttl interval
) returns lease_grant language plpgsql as $$
declare
    g        lease_grant;
    v_others numeric;
begin
    loop
        perform from slot_scope s where s.scope = i.scope for update;
        exit when found;
        insert into slot_scope values (i.scope) on conflict do nothing;
    end loop;
    delete from slot_hold h
    where h.scope = i.scope and (h.instance, h.boot) <> (p_instance, p_boot)
      and not lease_alive(h.instance, h.boot, h.asked_at, p_now, p_ttl);
    select coalesce(sum(h.held), 0) into v_others from slot_hold h
    where h.scope = i.scope and (h.instance, h.boot) <> (p_instance, p_boot);

    g.granted := greatest(0, least(i.need, trunc(i."limit") - v_others - i.stated));
    insert into slot_hold as h
    values (i.scope, p_instance, p_boot, i.stated + g.granted, p_seq, p_now)
    on conflict (scope, instance, boot) do update
        set held = excluded.held, seq = excluded.seq, asked_at = excluded.asked_at
        where h.seq < excluded.seq;
    if not found then
        g.granted := 0;
    end if;
    g.used := v_others + i.stated + g.granted;
    g.reserved := 0;
    g.remaining := greatest(0, i."limit" - g.used);
    g.window_id := 0;
    g.starts_ms := 0;
    g.ends_ms := 0;
    return g;
end $$;

-- remaining = limit - spent - sum(held). The ledger moves held to spent in one transaction and
-- takes no lock here, so both are read in one statement. p_ttl null: holds never expire.
create function lease_money(
    i lease_item, p_instance text, p_boot bigint, p_seq bigint, p_live integer,
    p_now timestamptz, p_ttl interval
) returns lease_grant language plpgsql as $$
declare
    g        lease_grant;
    l        money_lease;
    v_others numeric;
    v_held   numeric;
    v_change numeric;
begin
    loop
        perform from money_scope s
        where s.scope = i.scope and s.window_start_s = i.window_id for update;
        exit when found;
        insert into money_scope values (i.scope, i.window_id) on conflict do nothing;
    end loop;
    select * into l from money_lease m
    where m.scope = i.scope and m.window_start_s = i.window_id
      and m.instance = p_instance and m.boot = p_boot;
    if l.seq >= p_seq then
        return (0, 0, 0, 0, i.window_id, 0, 0)::lease_grant;
    end if;

    select
        (select coalesce(sum(c.spend), 0) from spend_counter c
         where c.kind = split_part(i.scope, ':', 1) and c.id = budget_owner(i.scope)
           and c.window_start_s = i.window_id),
        (select coalesce(sum(greatest(0, h.held)), 0)
         from budget_hold h left join money_lease m using (scope, window_start_s, instance, boot)
         where h.scope = i.scope and h.window_start_s = i.window_id
           and (h.instance, h.boot) <> (p_instance, p_boot)
           and (p_ttl is null or lease_alive(h.instance, h.boot, m.asked_at, p_now, p_ttl))),
        coalesce((select h.held from budget_hold h
                  where h.scope = i.scope and h.window_start_s = i.window_id
                    and h.instance = p_instance and h.boot = p_boot), 0)
    into g.used, v_others, v_held;
    v_change := case
        when l.lease = i.lease then i.stated - l.granted
        -- Counted anew: what an earlier count left behind is posted by now, but for its debts.
        when l.lease is not null then greatest(0, v_held) - v_held
        -- The first ask, or an owner that was away so long that it was cleared away.
        else i.outstanding
    end;
    v_held := v_held + v_change;
    -- A debt that is posted is in `used`; the owner asks for as much more than it needs.
    g.granted := lease_size(i, i."limit" - g.used - v_others - v_held, p_live, 12);

    if v_change + g.granted <> 0 then
        insert into budget_hold as h (scope, window_start_s, instance, boot, held)
        values (i.scope, i.window_id, p_instance, p_boot, v_change + g.granted)
        on conflict (scope, window_start_s, instance, boot)
            do update set held = h.held + excluded.held;
    end if;
    insert into money_lease as m
    values (
        i.scope, i.window_id, p_instance, p_boot, i.lease, i.stated + g.granted, p_seq, p_now)
    on conflict (scope, window_start_s, instance, boot) do update
        set lease = excluded.lease, granted = excluded.granted, seq = excluded.seq,
            asked_at = excluded.asked_at;
    g.reserved := v_others + greatest(0, v_held + g.granted);
    g.remaining := greatest(0, i."limit" - g.used - g.reserved);
    g.window_id := i.window_id;
    g.starts_ms := 0;
    g.ends_ms := 0;
    return g;
end $$;

-- Everything that one process wants, for all its waiting requests, in one round trip. p_items is
-- an array of lease_item, each scope and dimension summed by the caller; the answer is an array of
-- lease_grant in the same order. Rows are locked in one order by everybody, so that no two asks
-- wait for each other; each item is granted for itself. p_seq grows with each ask of an owner.
-- p_now is for tests: null takes the clock as it is when a lock has been had.
create function lease_take(
    p_instance text, p_boot bigint, p_seq bigint, p_live integer, p_slot_ttl_ms bigint,
    p_money_ttl_ms bigint, p_items jsonb, p_now timestamptz default null
) returns jsonb language plpgsql as $$
declare
    i        lease_item;
    g        lease_grant;
    v_ord    bigint;
    v_grants jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_slot   interval := p_slot_ttl_ms * interval '1 millisecond';
    v_money  interval := p_money_ttl_ms * interval '1 millisecond';
begin
    if not p_items @? '$[*] ? (@.kind == 2)' then
        -- What a crash of this server may take back of rates and slots is the last fraction of a
        -- second; waiting for the disk while holding a hot row would cost far more.
        perform set_config('synchronous_commit', 'off', true);
    end if;
    for v_ord in
        select e.ord from jsonb_array_elements(p_items) with ordinality e (item, ord)
        order by (e.item ->> 'kind')::smallint, (e.item ->> 'scope') collate "C",
            (e.item ->> 'dimension') collate "C", (e.item ->> 'window_id')::bigint, e.ord
    loop
        i := jsonb_populate_record(null::lease_item, p_items -> (v_ord - 1)::integer);
        g := case i.kind
            when 0 then lease_rate(i, p_live, p_now)
            when 1 then lease_slots(
                i, p_instance, p_boot, p_seq, coalesce(p_now, clock_timestamp()), v_slot)
            else lease_money(i, p_instance, p_boot, p_seq, p_live,
                coalesce(p_now, clock_timestamp()), v_money)
        end;
        v_grants[v_ord] := to_jsonb(g);
    end loop;
    return to_jsonb(v_grants);
end $$;

-- Releases all that an owner holds: called once its journal has been posted to the end, or by an
-- operator who knows that it is gone. Returns how many holds went.
create function lease_forget(p_instance text, p_boot bigint) returns integer
language plpgsql as $$
declare
    v_rows  integer;
    v_total integer;
begin
    delete from slot_hold h where h.instance = p_instance and h.boot = p_boot;
    get diagnostics v_total = row_count;
    delete from money_lease m where m.instance = p_instance and m.boot = p_boot;
    delete from budget_hold h where h.instance = p_instance and h.boot = p_boot;
    get diagnostics v_rows = row_count;
    return v_total + v_rows;
end $$;

-- Clears away rows that no owner will come back to: rates and slots idle for an hour, money idle
-- for a day whose owner is gone or has gone on to a later window. p_keep_dead leaves the money of
-- owners that are gone (strict mode). Skips what is locked; safe at any time and any number of
-- times at once. Returns how many rows went.
create function lease_clear(
    p_keep_dead boolean default false, p_now timestamptz default clock_timestamp()
) returns integer language plpgsql as $$
declare
    v_rows  integer;
    v_total integer;
begin
    delete from rate_window where (scope, dimension) in (
        select w.scope, w.dimension from rate_window w
        where w.opened_ms + 2 * w.length_ms < extract(epoch from p_now) * 1000 - 3600000
        for update skip locked);
    get diagnostics v_total = row_count;
    delete from slot_hold where (scope, instance, boot) in (
        select h.scope, h.instance, h.boot from slot_hold h
        where h.asked_at < p_now - interval '1 hour' and (h.held = 0
              or not lease_alive(h.instance, h.boot, h.asked_at, p_now, interval '1 hour'))
        for update skip locked);
    get diagnostics v_rows = row_count;
    v_total := v_total + v_rows;
    delete from money_lease where (scope, window_start_s, instance, boot) in (
        select m.scope, m.window_start_s, m.instance, m.boot from money_lease m
        where m.asked_at < p_now - interval '1 day' and (
            (not p_keep_dead
             and not lease_alive(m.instance, m.boot, m.asked_at, p_now, interval '1 day'))
            or (m.window_start_s > 0 and exists (
                select from money_lease n
                where n.scope = m.scope and n.instance = m.instance and n.boot = m.boot
                  and n.window_start_s > m.window_start_s)))
        for update skip locked);
    get diagnostics v_rows = row_count;
    v_total := v_total + v_rows;
    delete from budget_hold where (scope, window_start_s, instance, boot) in (
        select h.scope, h.window_start_s, h.instance, h.boot from budget_hold h
        where not exists (
            select from money_lease m
            where m.scope = h.scope and m.window_start_s = h.window_start_s
              and m.instance = h.instance and m.boot = h.boot)
        for update skip locked);
    get diagnostics v_rows = row_count;
    v_total := v_total + v_rows;
    delete from slot_scope where scope in (
        select s.scope from slot_scope s
        where not exists (select from slot_hold h where h.scope = s.scope)
        for update skip locked);
    delete from money_scope where (scope, window_start_s) in (
        select s.scope, s.window_start_s from money_scope s
        where not exists (
            select from money_lease m
            where m.scope = s.scope and m.window_start_s = s.window_start_s)
        for update skip locked);
    return v_total;
end $$;
