/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, and the accessors by which all other code reaches them, in libbpf's
 * dialect. The loader sets their sizes: `slots` below stands for --max-processes
 * plus FIRST_PROCESS_SLOT, `links` for the number of links that one run can follow.
 */
#ifndef ESIMBPF_MAPS_H
#define ESIMBPF_MAPS_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"

const volatile struct settings settings = { .slots_per_link = 1024, .links = 1 };
struct watched_links watched = {};

/*
 * Bytes and packets of each slot on each link.
 * Written by the packet path, read by the reader, never reset.
 * A fixed array: it cannot be full; a process without a slot counts under SLOT_OVERFLOW.
 * In blocks, since the kernel allocates a per-CPU array entry by entry, about 10 us each.
 * Memory: 32 B x CPUs x slots x links; 1 MiB at 16384 slots, one link, two CPUs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024 / USAGES_PER_BLOCK);
	__type(key, __u32);
	__type(value, struct usage_block);
} usage_blocks SEC(".maps");

/*
 * State of each slot; the reader maps it into its memory and compares.
 * Memory: 8 B x slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

/*
 * Who each slot's process is. Written when a process gets its slot and when it
 * execs; read by the reader once a process has moved bytes.
 * Memory: 856 B x slots; 13 MiB at 16384.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct process);
} processes SEC(".maps");

/*
 * Slots that nobody holds, the last freed on top, so that slots in use stay
 * few and low. Filled by the loader and the reader, emptied by the hooks. When
 * it is empty, a new process counts under SLOT_OVERFLOW.
 * Memory: 4 B x slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1024);
	__type(value, __u32);
} free_slots SEC(".maps");

/*
 * The slot of each living process that has one. Entries leave when the process
 * exits, or with the slot when the reader frees it. As many entries as slots,
 * so it is never the first to be full.
 * Memory: about 80 B x slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_key);
	__type(value, __u32);
} process_slots SEC(".maps");

/*
 * The owner of each socket. A socket accepted from a listener starts with the
 * listener's. Dies with the socket; memory is the sockets' own.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

/*
 * Who sent the ICMP echo requests with an identifier: every raw socket for ICMP
 * gets every reply, and this says whose it is. Written where requests are sent,
 * read where replies are delivered. When it is full the least recently used
 * goes; a reply without an entry counts for the first socket that gets it.
 * Memory: about 100 B x 1024.
 */
struct echo_sender {
	__u32 slot;
	__u32 generation;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct echo_sender);
} echo_senders SEC(".maps");

/*
 * Commands whose descendants are to be known, by their tgid. Written by the
 * reader, read at each fork. One entry where no command is followed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} commands SEC(".maps");

/*
 * Their descendants, wherever they have gone. Written at each fork and exit,
 * read by the reader. When it is full the least recently used goes: one that
 * has not forked for long, whose later children are then known by their cgroup
 * alone.
 * Memory: about 80 B x 16384 where a command is followed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct process_key);
	__type(value, struct descendant);
} descendants SEC(".maps");

/*
 * The packet last delivered on this CPU to a socket that may not be its only
 * one; see first_delivery().
 * Memory: 16 B x CPUs x links.
 */
struct delivery {
	__u64 head;
	__u64 sequence;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_LINKS);
	__type(key, __u32);
	__type(value, struct delivery);
} deliveries SEC(".maps");

/*
 * What quotas allow, and how far they are used; the controller maps both into
 * its memory, and writes the first there.
 * Memory: 104 B x 4096.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_QUOTAS);
	__type(key, __u32);
	__type(value, struct quota_rule);
} quota_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_QUOTAS);
	__type(key, __u32);
	__type(value, struct quota_use);
} quota_uses SEC(".maps");

/*
 * Whom quotas name: executables by device and inode, cgroups by their ids, and
 * both and apps by their names, which stay the same when they are started anew.
 * Written by the controller, read when a process moves its first packet under an
 * epoch. The controller refuses a quota that finds no room here, so that none is
 * left out silently.
 * Memory: about 130 B x what is named.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_QUOTAS);
	__type(key, struct exe_key);
	__type(value, struct quota_sets);
} quota_exes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_QUOTAS);
	__type(key, __u64);
	__type(value, struct quota_sets);
} quota_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_QUOTAS);
	__type(key, __u32);
	__type(value, struct quota_sets);
} quota_users SEC(".maps");

/* Single processes, of which the controller knows better than their names say which app they are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_QUOTAS);
	__type(key, struct process_key);
	__type(value, struct quota_sets);
} quota_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8 * MAX_QUOTAS);
	__type(key, struct name_key);
	__type(value, struct quota_sets);
} quota_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quota_sets);
} quota_everybody SEC(".maps");

/*
 * The quotas of each slot's process, in blocks as the usage is. One entry where
 * no quotas are enforced.
 * Memory: 64 B x CPUs x slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024 / QUOTAS_PER_BLOCK);
	__type(key, __u32);
	__type(value, struct quotas_block);
} quotas_blocks SEC(".maps");

/*
 * The cgroups of each slot's process, written with its record.
 * Memory: 280 B x slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ancestry);
} ancestries SEC(".maps");

/*
 * What words say of names, by their hashes. Written by the loader, read when a
 * process is described. A word that were missing would say nothing.
 * Memory: about 100 B x 512; one entry where no quotas are enforced.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct word);
} words SEC(".maps");

/*
 * What was blocked, by link and slot. Entries are made by the packet path and
 * stay: a slot's next process goes on from there. When there is no room for one
 * more, what is blocked counts under the link's SLOT_OVERFLOW, whose entry the
 * loader makes before anything is blocked, and a warning says so.
 * Memory: about 100 B x slots of which anything was ever blocked, at most 1.6 MB.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct blocked_key);
	__type(value, struct usage);
} blocked SEC(".maps");

/*
 * Connections of which something was blocked on receipt, to be ended with the
 * next packet (answer.h). When it is full, further ones end by time-out.
 * Memory: about 100 B x those.
 */
struct flow {
	__u8 local[16], remote[16];	/* IPv4 addresses are the first four bytes */
	__be16 local_port, remote_port;
};

struct unwanted {
	__u32 sequence;		/* of the first byte that was blocked */
	__u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, struct unwanted);
} unwanted SEC(".maps");

/* NULL never happens: every slot is below the array's size. */
static __always_inline struct usage *usage_at(__u32 link, __u32 slot)
{
	__u32 number = link * settings.slots_per_link + slot;
	__u32 block_number = number / USAGES_PER_BLOCK;
	struct usage_block *block = bpf_map_lookup_elem(&usage_blocks, &block_number);

	return block ? &block->usages[number % USAGES_PER_BLOCK] : NULL;
}

static __always_inline struct slot *slot_at(__u32 slot)
{
	return bpf_map_lookup_elem(&slots, &slot);
}

static __always_inline struct process *process_at(__u32 slot)
{
	return bpf_map_lookup_elem(&processes, &slot);
}

static __always_inline struct ancestry *ancestry_of(__u32 slot)
{
	return bpf_map_lookup_elem(&ancestries, &slot);
}

static __always_inline struct word *word_find(__u64 hash)
{
	return bpf_map_lookup_elem(&words, &hash);
}

static __always_inline struct slot_quotas *quotas_of(__u32 slot)
{
	__u32 block_number = slot / QUOTAS_PER_BLOCK;
	struct quotas_block *block = bpf_map_lookup_elem(&quotas_blocks, &block_number);

	return block ? &block->quotas[slot % QUOTAS_PER_BLOCK] : NULL;
}

/* The terms that hold now. */
static __always_inline struct quota_terms *quota_terms_of(__u32 quota)
{
	struct quota_rule *rule = bpf_map_lookup_elem(&quota_rules, &quota);

	return rule ? &rule->terms[*(volatile __u64 *)&rule->current & 1] : NULL;
}

static __always_inline struct quota_use *quota_use_at(__u32 quota)
{
	return bpf_map_lookup_elem(&quota_uses, &quota);
}

static __always_inline struct quota_sets *quotas_of_exe(const struct exe_key *key)
{
	return bpf_map_lookup_elem(&quota_exes, key);
}

static __always_inline struct quota_sets *quotas_of_cgroup(__u64 cgroup)
{
	return bpf_map_lookup_elem(&quota_cgroups, &cgroup);
}

static __always_inline struct quota_sets *quotas_of_user(__u32 uid)
{
	return bpf_map_lookup_elem(&quota_users, &uid);
}

static __always_inline struct quota_sets *quotas_of_process(const struct process_key *key)
{
	return bpf_map_lookup_elem(&quota_processes, key);
}

static __always_inline struct quota_sets *quotas_of_name(const struct name_key *key)
{
	return bpf_map_lookup_elem(&quota_names, key);
}

static __always_inline struct quota_sets *quotas_of_everybody(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&quota_everybody, &only);
}

static __always_inline struct usage *blocked_at(__u32 link, __u32 slot)
{
	struct blocked_key key = { .link = link, .slot = slot };
	struct usage nothing = {}, *usage = bpf_map_lookup_elem(&blocked, &key);

	if (usage)
		return usage;
	bpf_map_update_elem(&blocked, &key, &nothing, BPF_NOEXIST);
	usage = bpf_map_lookup_elem(&blocked, &key);
	if (usage)
		return usage;
	key.slot = SLOT_OVERFLOW;
	return bpf_map_lookup_elem(&blocked, &key);
}

static __always_inline struct unwanted *unwanted_find(const struct flow *flow)
{
	return bpf_map_lookup_elem(&unwanted, flow);
}

static __always_inline long unwanted_add(const struct flow *flow, const struct unwanted *value)
{
	return bpf_map_update_elem(&unwanted, flow, value, BPF_NOEXIST);
}

static __always_inline long unwanted_forget(const struct flow *flow)
{
	return bpf_map_delete_elem(&unwanted, flow);
}

static __always_inline struct delivery *delivery_of(__u32 link)
{
	return bpf_map_lookup_elem(&deliveries, &link);
}

static __always_inline void echo_sender_set(__u32 key, const struct echo_sender *sender)
{
	bpf_map_update_elem(&echo_senders, &key, sender, BPF_ANY);
}

static __always_inline struct echo_sender *echo_sender_find(__u32 key)
{
	return bpf_map_lookup_elem(&echo_senders, &key);
}

static __always_inline long free_slot_take(__u32 *slot)
{
	return bpf_map_pop_elem(&free_slots, slot);
}

static __always_inline void free_slot_give(__u32 slot)
{
	bpf_map_push_elem(&free_slots, &slot, 0);
}

static __always_inline __u32 *process_slot_find(const struct process_key *key)
{
	return bpf_map_lookup_elem(&process_slots, key);
}

static __always_inline long process_slot_insert(const struct process_key *key, __u32 slot)
{
	return bpf_map_update_elem(&process_slots, key, &slot, BPF_NOEXIST);
}

static __always_inline void process_slot_forget(const struct process_key *key)
{
	bpf_map_delete_elem(&process_slots, key);
}

static __always_inline bool command_is(__u32 tgid)
{
	return bpf_map_lookup_elem(&commands, &tgid);
}

static __always_inline struct descendant *descendant_find(const struct process_key *key)
{
	return bpf_map_lookup_elem(&descendants, key);
}

static __always_inline void descendant_add(const struct process_key *key, __u32 command)
{
	struct descendant descendant = { .command = command };

	bpf_map_update_elem(&descendants, key, &descendant, BPF_ANY);
}

/* The packet path's look-up; a macro, since `sk` has another type in each hook. */
#define owner_get(sk) ((struct owner *)bpf_sk_storage_get(&owners, (sk), 0, 0))
#define owner_create(sk) \
	((struct owner *)bpf_sk_storage_get(&owners, (sk), 0, BPF_SK_STORAGE_GET_F_CREATE))

#define NO_LINK MAX_LINKS

/*
 * The link with this ifindex, or NO_LINK. Its number is read, so that the verifier
 * does not know it, and looks at what follows once and not once for each link.
 */
static __always_inline __u32 link_find(__u32 ifindex)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < MAX_LINKS; i++) {
		if (i >= settings.links)
			break;
		if (watched.links[i].ifindex == ifindex)
			return watched.links[i].number;
	}
	return NO_LINK;
}

static __always_inline struct link *link_at(__u32 link)
{
	return &watched.links[link & (MAX_LINKS - 1)];
}

#endif
