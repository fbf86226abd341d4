/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet may pass: quotas, which name whom they are about by the app,
 * the executable, a cgroup, the user, or everybody, and are enforced here alone.
 *
 * A quota's use only grows; used up it is when the use has come to
 * `stop_at_bytes`, which the controller moves on when a new period begins. The
 * packet that reaches it still passes, the next one does not. Of an offload
 * packet that holds for each of its segments: it passes if its last segment
 * may, and is dropped whole otherwise; TCP then sends its segments one by one.
 *
 * What is sent and dropped has not crossed the link, and is not used. What is
 * received and dropped has been paid for: it counts in its row, and is used.
 *
 * A look-up that finds nothing lets the packet pass (fails open): there is no
 * quota then, and it has been counted as always.
 */
#ifndef ESIMBPF_VERDICT_H
#define ESIMBPF_VERDICT_H

#include "vmlinux.h"
#include "maps.h"
#include "owner.h"
#include "packet.h"

#define NEVER (~0ULL)
#define NS_PER_S 1000000000ULL

static __always_inline void add_to(__u64 *counter, __u64 amount)
{
	/* Its result is not used: kernels before 5.12 have no atomic with one. */
	__sync_fetch_and_add(counter, amount);
}

/*
 * The functions that follow are not static, and take numbers, so that the
 * verifier looks at each once (see owner.h).
 */

/* --- which quotas apply ----------------------------------------------------- */

#define SENT_BIT (1 << 8)
#define SERVICE_BIT (1 << 9)
#define LINK_OF(way) ((way) & (SENT_BIT - 1))

/* A packet's way: a link's number, SENT_BIT, and SERVICE_BIT if it is of a service that the saver mode leaves open. */

/* Whether a quota is used up and blocks what goes that way. */
__noinline int blocks(__u32 quota, __u32 way)
{
	struct quota_terms *terms = quota_terms_of(quota);
	struct quota_use *use = quota_use_at(quota);

	if ((way & SERVICE_BIT) && quota == SAVER_QUOTA)
		return 0;
	return terms && use && terms->action == QUOTA_BLOCK && (terms->links >> (LINK_OF(way) & 31) & 1) &&
	       use->bytes >= terms->stop_at_bytes;
}

#define TO_FIND (~0U)

/*
 * Adds a quota to a slot's, once, of which there may be `most`; for a way, says
 * instead whether it blocks that. One that finds no room does not apply, which
 * the controller tells.
 */
__noinline int consider(__u32 slot, __u32 quota, __u32 way, __u32 most)
{
	struct slot_quotas *found = quotas_of(slot);
	int i;

	if (way != TO_FIND)
		return blocks(quota, way);
	if (!found)
		return 0;
	for (i = 0; i < QUOTAS_PER_PROCESS; i++) {
		if (i >= most)
			break;
		if (i >= found->count) {
			found->quotas[i] = quota;
			found->count = i + 1;
			return 0;
		}
		if (found->quotas[i] == quota)
			return 0;
	}
	watched.crowded = slot;
	return 0;
}

enum known_by { BY_ID_OF_CGROUP, BY_EXE, BY_USER, BY_PROCESS, BY_NAME };

#define ONE_BLOCKS (1U << 31)
#define IS_APP (1U << 30)

/*
 * Considers those that name what a slot's process is. Gives which of everybody's
 * do not apply to it, ONE_BLOCKS, and IS_APP. `by` is BY_NAME + enum named where
 * `key` is a name's hash.
 */
__noinline __u32 consider_named(__u32 slot, __u32 by, __u64 key, __u32 way, __u32 epoch)
{
	struct process *process = process_at(slot);
	struct quota_sets *sets;
	struct quota_set *set;
	struct process_key same = {};
	struct name_key name = {};
	struct exe_key exe = {};
	int i;

	if (!process)
		return 0;
	if (by == BY_PROCESS) {
		same.start_ns = process->start_ns;
		same.tgid = process->tgid;
		sets = quotas_of_process(&same);
	} else if (by == BY_EXE) {
		exe.inode = process->exe_inode;
		exe.device = process->exe_device;
		sets = quotas_of_exe(&exe);
	} else if (by == BY_USER) {
		sets = quotas_of_user(process->uid);
	} else if (by == BY_ID_OF_CGROUP) {
		sets = quotas_of_cgroup(key);
	} else {
		if (key == NOT_KNOWN)
			return 0;
		name.hash = key;
		name.named = by - BY_NAME;
		sets = quotas_of_name(&name);
	}
	if (!sets)
		return 0;
	set = &sets->under[epoch & 1];
	for (i = 0; i < QUOTAS_PER_SET; i++) {
		if (i >= set->count)
			break;
		if (consider(slot, set->quotas[i], way, QUOTAS_PER_PROCESS - QUOTAS_PER_SET))
			return ONE_BLOCKS;
	}
	return set->spared | (set->is_app ? IS_APP : 0);
}

/* The same of the app that it is: what the controller has said of it, or else what its names say. */
__noinline __u32 consider_app(__u32 slot, __u32 way, __u32 epoch)
{
	struct process *process = process_at(slot);
	struct ancestry *ancestry = ancestry_of(slot);
	__u32 said;

	if (!process || !ancestry)
		return 0;
	said = consider_named(slot, BY_PROCESS, 0, way, epoch);
	if (!said)
		said = consider_named(slot, BY_NAME + NAMED_APP_OF_EXE, process->exe_path, way, epoch);
	if (!said)
		said = consider_named(slot, BY_NAME + NAMED_APP_OF_CGROUP, ancestry->paths[0], way, epoch);
	if (!said)
		said = consider_named(slot, BY_NAME + NAMED_APP, process->app, way, epoch);
	return said & ~IS_APP;
}

__noinline int consider_everybodys(__u32 slot, __u32 spared, __u32 way, __u32 epoch)
{
	struct quota_sets *sets = quotas_of_everybody();
	struct quota_set *set;
	int i;

	if (!sets)
		return 0;
	set = &sets->under[epoch & 1];
	for (i = 0; i < QUOTAS_PER_SET; i++) {
		if (i >= set->count)
			break;
		if (!(spared >> i & 1) && consider(slot, set->quotas[i], way, QUOTAS_PER_PROCESS))
			return 1;
	}
	return 0;
}

/* Considers all quotas that apply to a slot's process; 1 if one of them blocks the way. */
__noinline int consider_all(__u32 slot, __u32 way, __u32 epoch)
{
	struct process *process = process_at(slot);
	struct ancestry *ancestry = ancestry_of(slot);
	__u32 spared = 0;
	int i;

	if (slot >= FIRST_PROCESS_SLOT && process && ancestry) {
		spared |= consider_app(slot, way, epoch);
		spared |= consider_named(slot, BY_EXE, 0, way, epoch);
		spared |= consider_named(slot, BY_NAME + NAMED_EXE, process->exe_path, way, epoch);
		spared |= consider_named(slot, BY_USER, 0, way, epoch);
		for (i = 0; i < ANCESTORS; i++) {
			__u64 path = ancestry->paths[i], name = name_below(ancestry->paths[i + 1], path);

			if (!ancestry->cgroups[i])
				break;
			spared |= consider_named(slot, BY_ID_OF_CGROUP, ancestry->cgroups[i], way, epoch);
			spared |= consider_named(slot, BY_NAME + NAMED_CGROUP, path, way, epoch);
			spared |= consider_named(slot, BY_NAME + NAMED_UNIT, name, way, epoch);
		}
	}
	return spared & ONE_BLOCKS || consider_everybodys(slot, spared, way, epoch);
}

/* Whether what this CPU knows of a slot's quotas is of its present process and of an epoch. */
static __always_inline bool are_known(const struct slot_quotas *quotas, const struct slot *state, __u32 epoch)
{
	return quotas->epoch == epoch && quotas->generation == state->generation &&
	       quotas->revision == state->revision;
}

/* Finds the quotas of a slot's process anew. */
__noinline int find_quotas(__u32 slot, __u32 epoch)
{
	struct slot_quotas *found = quotas_of(slot);
	struct slot *state = slot_at(slot);

	if (!found || !state)
		return 0;
	found->generation = state->generation;
	found->revision = state->revision;
	found->count = 0;
	consider_all(slot, TO_FIND, epoch);
	found->epoch = epoch;
	return 0;
}

/* --- what they say ------------------------------------------------------------ */

/*
 * At the rate of a quota that is used up: what has passed is paid for in time,
 * and as much may pass at once as is paid for in `burst_ns`. It begins with
 * nothing saved up.
 */
__noinline int within_rate(__u32 quota, __u64 bytes, __u64 last, __u32 direction)
{
	struct quota_terms *terms = quota_terms_of(quota);
	struct quota_use *use = quota_use_at(quota);
	__u64 now = bpf_ktime_get_ns(), free_at, rate;

	if (!terms || !use)
		return 1;
	rate = terms->bytes_per_s;
	if (!rate)
		return 0;
	if (bytes > last && bytes * NS_PER_S / rate > terms->burst_ns)
		return 0; /* its sender shall try smaller ones */
	free_at = use->free_at_ns[direction & 1];
	if (!free_at)
		use->free_at_ns[direction & 1] = now;
	else if (free_at > now)
		return 0;
	else if (now - free_at > terms->burst_ns)
		use->free_at_ns[direction & 1] = now - terms->burst_ns;
	add_to(&use->free_at_ns[direction & 1], bytes * NS_PER_S / rate);
	return 1;
}

enum verdict {
	BLOCKED = 0,
	PASSES = 1,
	TOO_LARGE = 2,	/* an offload packet of which only a part may pass: its sender shall try smaller ones */
	AT_RATE = 3,	/* passes, at the rate of a quota that is used up */
};

/*
 * Charges a packet to a quota, and says whether it may pass. `last` are the
 * bytes of its last segment. What is added is read back: of two packets at the
 * same time both may find the other's before them and be dropped, but never
 * both be let pass beyond the limit.
 */
static __always_inline int charge(__u32 quota, __u32 link, __u64 bytes, __u64 last, __u32 direction)
{
	struct quota_terms *terms = quota_terms_of(quota);
	struct quota_use *use = quota_use_at(quota);
	__u64 stop_at, before;

	if (!terms || !use || !(terms->links >> (link & 31) & 1))
		return PASSES;
	if (terms->counts & (direction ? QUOTA_COUNTS_SENT : QUOTA_COUNTS_RECEIVED)) {
		/* What is received for everybody has been counted where it came in. */
		if (direction || !terms->whole)
			add_to(&use->bytes, bytes);
	} else {
		bytes = last = 0;
	}
	stop_at = *(volatile __u64 *)&terms->stop_at_bytes;
	before = *(volatile __u64 *)&use->bytes - bytes;
	if (stop_at == NEVER || before + (bytes - last) < stop_at)
		return PASSES;
	if (terms->action == QUOTA_BLOCK)
		return before < stop_at ? TOO_LARGE : BLOCKED;
	if (terms->action == QUOTA_THROTTLE)
		return within_rate(quota, bytes, last, direction) ? AT_RATE : TOO_LARGE;
	return PASSES;
}

/* Adds to the use of a quota that counts what goes that way over a link. */
static __always_inline void use_more(struct quota_terms *terms, struct quota_use *use, __u32 counts, __u32 link, __u64 bytes)
{
	if (terms && use && (terms->links >> (link & 31) & 1) && (terms->counts & counts))
		add_to(&use->bytes, bytes);
}

/*
 * Whether any quotas apply to a slot; they are known then. Only where nothing
 * else can use this CPU's before the caller has: in packet paths, which soft
 * interrupts do not interrupt.
 */
static __always_inline bool has_quotas(__u32 slot)
{
	__u32 epoch = *(volatile __u32 *)&watched.quota_epoch;
	struct slot_quotas *quotas;
	struct slot *state;

	if (!settings.enforces || !epoch)
		return false;
	quotas = quotas_of(slot);
	state = slot_at(slot);
	if (!quotas || !state)
		return false;
	if (!are_known(quotas, state, epoch))
		find_quotas(slot, epoch);
	return quotas->count;
}

__noinline int count_blocked(__u32 link, __u32 slot, __u64 bytes, __u64 packets, __u32 direction)
{
	struct usage *usage = blocked_at(link, slot);

	if (!usage)
		return 0;
	if (direction) {
		add_to(&usage->tx_bytes, bytes);
		add_to(&usage->tx_packets, packets);
	} else {
		add_to(&usage->rx_bytes, bytes);
		add_to(&usage->rx_packets, packets);
	}
	return 0;
}

/*
 * Adds to the use of the first `most` of a slot's quotas; less than nothing
 * takes back what was charged before one has not let pass what was to be sent.
 */
__noinline int use_sent_of_all(__u32 slot, __u32 way, __u64 bytes, __u32 most)
{
	struct slot_quotas *quotas = quotas_of(slot);
	int i;

	if (!quotas)
		return 0;
	for (i = 0; i < QUOTAS_PER_PROCESS; i++) {
		if (i >= most || i >= quotas->count)
			break;
		if ((way & SERVICE_BIT) && quotas->quotas[i] == SAVER_QUOTA)
			continue;
		use_more(quota_terms_of(quotas->quotas[i]), quota_use_at(quotas->quotas[i]), QUOTA_COUNTS_SENT,
			 LINK_OF(way), bytes);
	}
	return 0;
}

/*
 * The verdict of all quotas of a slot that has some on a packet, which is
 * charged to them. `last` are the bytes of its last segment.
 */
__noinline int judge(__u32 way, __u32 slot, __u64 bytes, __u64 last)
{
	__u32 link = LINK_OF(way), sent = way / SENT_BIT & 1;
	struct slot_quotas *quotas = quotas_of(slot);
	int i, said, verdict = PASSES;

	if (!quotas)
		return PASSES;
	for (i = 0; i < QUOTAS_PER_PROCESS; i++) {
		if (i >= quotas->count)
			break;
		if ((way & SERVICE_BIT) && quotas->quotas[i] == SAVER_QUOTA)
			continue;
		said = charge(quotas->quotas[i], link, bytes, last, sent);
		if (said == PASSES || (said == AT_RATE && verdict != PASSES))
			continue;
		verdict = said;
		if (said != AT_RATE && sent) {
			use_sent_of_all(slot, way, -bytes, i + 1);
			break;
		}
		/* What was received is used of the others, too. */
	}
	return verdict;
}

#define ICMPV6_MLD_QUERY 130
#define ICMPV6_REDIRECT 137
#define ICMPV6_MLD2_REPORT 143

/*
 * Whether a packet passes whatever quotas say, and is charged to them: without
 * neighbour discovery and multicast membership (RFC 4861, 2710, 3810, 3376) a
 * link is none; and a reset, received, or sent by the kernel for nobody, ends
 * what would go on being paid for.
 */
static __noinline bool always_passes(struct __sk_buff *skb, __u32 offset, __u32 slot, __u32 sent)
{
	struct headers headers = {};
	__u8 byte = 0;

	if (walk_headers(skb, offset, &headers) || headers.fragment || headers.ip_headers != 1)
		return false;
	if (headers.protocol == IPPROTO_IGMP)
		return true;
	if (headers.protocol == IPPROTO_ICMPV6) {
		bpf_skb_load_bytes(skb, offset + headers.transport_at, &byte, 1);
		return (byte >= ICMPV6_MLD_QUERY && byte <= ICMPV6_REDIRECT) || byte == ICMPV6_MLD2_REPORT;
	}
	if (headers.protocol != IPPROTO_TCP || (sent && slot != SLOT_KERNEL))
		return false;
	bpf_skb_load_bytes(skb, offset + headers.transport_at + 13, &byte, 1);
	return byte & TCP_RST;
}

/* Everybody's quotas, if there are any: most packets are spared a call. */
static __always_inline struct quota_set *some_of_everybody(void)
{
	__u32 epoch = *(volatile __u32 *)&watched.quota_epoch;
	struct quota_sets *sets;
	struct quota_set *set;

	if (!settings.enforces || !epoch)
		return NULL;
	sets = quotas_of_everybody();
	if (!sets)
		return NULL;
	set = &sets->under[epoch & 1];
	return set->count ? set : NULL;
}

/* What came in is used of the quotas of everybody without exception, whoever gets it. */
static __noinline int charge_everybody(__u32 link, __u64 bytes)
{
	struct quota_set *set = some_of_everybody();
	int i;

	if (!set)
		return 0;
	for (i = 0; i < QUOTAS_PER_SET; i++) {
		struct quota_terms *terms;

		if (i >= set->count)
			break;
		terms = quota_terms_of(set->quotas[i]);
		if (terms && terms->whole)
			use_more(terms, quota_use_at(set->quotas[i]), QUOTA_COUNTS_RECEIVED, link, bytes);
	}
	return 0;
}

/*
 * SERVICE_BIT if a packet is of a service that is open, by the ports of its
 * two ends: RFC 1035, 7858 and 9250; 2131 and 8415; 5905.
 */
static __noinline __u32 service_bit(struct __sk_buff *skb, __u32 offset, __u32 sent)
{
	__u32 at, local, remote, dns, dhcp, ntp;
	__u8 ip[20], protocol;
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, offset, ip, sizeof(ip)))
		return 0;
	if ((ip[0] >> 4) == 6) {
		at = offset + 40;
		protocol = ip[6];
	} else {
		at = offset + (ip[0] & 0xf) * 4;
		protocol = ip[9];
		if ((ip[6] & 0x1f) | ip[7])
			return 0; /* a later fragment has no ports, but what looks like some */
	}
	if ((protocol != IPPROTO_UDP && protocol != IPPROTO_TCP) || bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	local = bpf_ntohs(sent ? ports[0] : ports[1]);
	remote = bpf_ntohs(sent ? ports[1] : ports[0]);
	dns = remote == 53 || remote == 853;
	dhcp = protocol == IPPROTO_UDP && (remote == 67 || remote == 547 || local == 68 || local == 546);
	ntp = protocol == IPPROTO_UDP && remote == 123;
	if ((dns && (watched.open_services & OPEN_DNS)) || (dhcp && (watched.open_services & OPEN_DHCP)) ||
	    (ntp && (watched.open_services & OPEN_NTP)))
		return SERVICE_BIT;
	return 0;
}

/*
 * Whether a quota of a slot's process blocks a way. For callers that soft
 * interrupts and other processes do interrupt: it writes nothing, and what it
 * does not know it looks up.
 */
__noinline int is_blocked(__u32 slot, __u32 way)
{
	struct slot_quotas *quotas = quotas_of(slot);
	struct slot *state = slot_at(slot);
	__u32 epoch = *(volatile __u32 *)&watched.quota_epoch;
	int i;

	if (!quotas || !state)
		return 0;
	if (!are_known(quotas, state, epoch))
		return consider_all(slot, way, epoch);
	for (i = 0; i < QUOTAS_PER_PROCESS; i++) {
		if (i >= quotas->count)
			break;
		if (blocks(quotas->quotas[i], way))
			return 1;
	}
	return 0;
}

#endif
