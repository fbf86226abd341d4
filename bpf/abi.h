/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What crosses between the kernel side and the reader: the one source of truth.
 * esimbpf/kernel/abi.py mirrors it, and a test holds sizes and offsets of both
 * against each other.
 *
 * All bytes are billable bytes: bytes of IP packets, the IP header included,
 * the link-layer header not, each segment of an offload packet with its own
 * headers.
 */
#ifndef ESIMBPF_ABI_H
#define ESIMBPF_ABI_H

#define ESIMBPF_ABI_VERSION 1

#define MAX_LINKS 8

/*
 * Each link has a usage for each slot, number link * slots_per_link + slot.
 * The first slots are reserved; a process holds one of the others.
 */
enum reserved_slot {
	/* Rows of the ledger. */
	SLOT_KERNEL = 0,	/* tx: of the kernel's own sockets, or of none; rx is what nobody took */
	SLOT_FORWARDED = 1,	/* routed or bridged through: tx out of the link, rx in through it */
	SLOT_UNATTRIBUTED = 2,	/* a user's socket whose owner is not known */
	SLOT_OVERFLOW = 3,	/* processes that found no free slot */

	/*
	 * What the reader needs to close the ledger; see the comments in account.h.
	 * A packet is counted in all that concern it by one CPU, before that CPU
	 * does anything else than receive packets.
	 */
	SLOT_LINK = 4,		/* rx: every IP packet that came in; tx is the sum of the rows */
	SLOT_OTHER = 5,		/* frames that are no IP packets, both ways: not billable */
	SLOT_FRAGMENT = 6,	/* rx: IP fragments that came in, a part of SLOT_LINK */
	SLOT_FRAGMENT_HEADER = 7, /* rx: what reassembly takes away: headers, and all packets but one */
	SLOT_REASSEMBLED = 8,	/* rx: reassembled packets that a socket received */
	SLOT_FORWARDED_FRAGMENT = 9, /* rx: fragments that went on; tx: their SLOT_FRAGMENT_HEADER part */

	SLOT_TAKEN = 10,	/* rx: what sockets of this network namespace received, a sum over rows */

	FIRST_PROCESS_SLOT = 16,
};

/* Per CPU; only ever added to, so that no reader and no restart loses a byte. */
struct usage {
	__u64 rx_bytes;
	__u64 tx_bytes;
	__u64 rx_packets;
	__u64 tx_packets;
};
_Static_assert(sizeof(struct usage) == 32, "struct usage");

/* What one entry of the usage map holds; slots_per_link is a multiple of it. */
#define USAGES_PER_BLOCK 64

struct usage_block {
	struct usage usages[USAGES_PER_BLOCK];
};
_Static_assert(sizeof(struct usage_block) == 2048, "struct usage_block");

enum slot_state {
	SLOT_FREE = 0,
	SLOT_LIVE = 1,
	SLOT_EXITED = 2,	/* its last thread has ended; orphaned sockets may still count */
	SLOT_RETIRED = 3,	/* the reader is about to free it */
};

/*
 * Small and dense, since the packet path reads it. The reader raises
 * `generation` when it takes the slot back, and from then on sockets that
 * still hold the slot count as unattributed.
 */
struct slot {
	__u32 generation;	/* written by the reader alone */
	__u8 state;		/* enum slot_state; written by the kernel, retired and set free by the reader */
	__u8 shares;		/* the process may have shared sockets: it has forked, or could have passed some */
	__u16 revision;		/* raised when the process's record has changed (exec) */
};
_Static_assert(sizeof(struct slot) == 8, "struct slot");

enum owner_flags {
	OWNER_SHARED_DELIVERY = 1 << 0, /* raw, ICMP: one packet may reach several such sockets */
	OWNER_DATAGRAM = 1 << 1,	/* the same, for multicast and broadcast */
	OWNER_PACKET = 1 << 2,		/* AF_PACKET: what it sends may be no sound IP packet */
	OWNER_EXCLUSIVE = 1 << 3,	/* nobody but its owner has ever used it, and he has */
	OWNER_SHARED = 1 << 4,		/* several processes have used it */
};

/* Socket storage: whose bytes the socket's packets are. */
struct owner {
	__u32 slot;
	__u32 generation;
	__u64 netns_cookie;
	__u64 start_ns;		/* since boot; with tgid it identifies the process */
	__u32 tgid;
	__u32 stranger_tgid;	/* last process seen sending that does not hold the socket */
	__u32 flags;		/* enum owner_flags */
	__u32 padding;
};
_Static_assert(sizeof(struct owner) == 40, "struct owner");

#define COMM_BYTES 16
#define PATH_BYTES 256
#define ARGS_BYTES 256

/*
 * Who a slot's process is. The two paths are written leaf first, each
 * component ended by NUL, so that what does not fit is lost at the root's end.
 * A path whose length reads PATH_BYTES or more has been cut off there.
 *
 * The kernel side writes exe, cgroup and args in this order: a component that
 * runs past the end of one is overwritten by the next.
 */
struct process {
	__u64 start_ns;
	__u64 cgroup_id;
	__u64 netns_cookie;
	__u64 app;		/* for which it is taken: the hash of a name, see naming.h; 0: not known */
	__u64 exe_path;		/* the hash of its executable's path; 0: not known */
	__u64 exe_inode;
	__u32 exe_device;	/* as the kernel encodes dev_t: major << 20 | minor */
	__u32 tgid;
	__u32 uid;		/* real user id, in the initial user namespace */
	__u16 exe_bytes;
	__u16 cgroup_bytes;
	__u16 args_bytes;
	__u16 padding[3];
	char comm[COMM_BYTES];
	char exe[PATH_BYTES];
	char cgroup[PATH_BYTES];
	char args[ARGS_BYTES];
};
_Static_assert(sizeof(struct process) == 88 + 2 * PATH_BYTES + ARGS_BYTES, "struct process");

struct process_key {
	__u64 start_ns;
	__u32 tgid;
	__u32 padding;
};
_Static_assert(sizeof(struct process_key) == 16, "struct process_key");

/* A descendant of a command that the reader follows, by its process_key. */
struct descendant {
	__u32 command;		/* tgid of the command */
	__u32 exited;
};
_Static_assert(sizeof(struct descendant) == 8, "struct descendant");

/* What the reader tells the hooks of one link; ifindex 0 matches nothing. */
struct link {
	__u32 ifindex;
	__u32 header_len;	/* of the link layer: 14 on Ethernet, 0 on raw IP */
	__u32 fragments_seen;	/* set by the kernel side; from then on reassembly is looked for */
	__u32 number;		/* its own, of those below MAX_LINKS */
};
_Static_assert(sizeof(struct link) == 16, "struct link");

/* Written by the reader while the hooks run: a link that comes back has another ifindex. */
struct watched_links {
	__u64 netns_cookie;	/* of the one network namespace that all of them are in */
	struct link links[MAX_LINKS];
	__u32 quota_epoch;	/* raised when quotas have come, gone or been given to others; 0: there are none */
	__u32 open_services;	/* enum open_service: what the saver mode leaves open to everybody */
	__u32 resets_wanted;	/* set by the kernel side: how many connections are to be ended, see answer.h */
	__u32 crowded;		/* set by the kernel side: a slot for whose process there was no room for all quotas; 0: none */
};
_Static_assert(sizeof(struct watched_links) == 24 + 16 * MAX_LINKS, "struct watched_links");

/* --- quotas: see verdict.h ------------------------------------------------ */

#define MAX_QUOTAS 4096		/* the first is none */
#define SAVER_QUOTA (MAX_QUOTAS - 1)

enum open_service {
	OPEN_DNS = 1 << 0,
	OPEN_DHCP = 1 << 1,
	OPEN_NTP = 1 << 2,
};

#define QUOTAS_PER_SET 8	/* that name one app, executable, cgroup or user, or everybody */
#define QUOTAS_PER_PROCESS 24	/* of which QUOTAS_PER_SET places are everybody's */
#define ANCESTORS 16

enum quota_action {
	QUOTA_NOTIFY = 0,	/* counts, and lets all pass */
	QUOTA_BLOCK = 1,
	QUOTA_THROTTLE = 2,
};

enum quota_counts {
	QUOTA_COUNTS_RECEIVED = 1 << 0,
	QUOTA_COUNTS_SENT = 1 << 1,
};

/* What a quota allows. */
struct quota_terms {
	__u64 stop_at_bytes;	/* the value of quota_use.bytes at which it is used up; ~0: never */
	__u64 bytes_per_s;	/* from then on, of QUOTA_THROTTLE */
	__u64 burst_ns;		/* what may pass at once then, as time at that rate */
	__u32 links;		/* a bit for each link number that it is about */
	__u8 counts;		/* enum quota_counts */
	__u8 action;		/* enum quota_action */
	__u8 whole;		/* of everybody without exception, the kernel and forwarded packets too */
	__u8 padding;
};
_Static_assert(sizeof(struct quota_terms) == 32, "struct quota_terms");

/*
 * Written by the controller while the packet path reads: always the terms that
 * do not hold, which then hold in one step.
 */
struct quota_rule {
	struct quota_terms terms[2];
	__u64 current;
};
_Static_assert(sizeof(struct quota_rule) == 72, "struct quota_rule");

/* How far it is used; only ever added to, by the packet path. The next quota of the same number goes on from there. */
struct quota_use {
	__u64 bytes;		/* of the directions that it counts; what is blocked on sending is not used */
	__u64 free_at_ns[2];	/* by direction, when what has passed is paid for at bytes_per_s */
	__u64 padding;
};
_Static_assert(sizeof(struct quota_use) == 32, "struct quota_use");

/* The quotas that name one app, executable, cgroup or user, or everybody. */
struct quota_set {
	__u16 quotas[QUOTAS_PER_SET];
	__u16 count;
	__u16 is_app;		/* they are those of the app that it is, were there none */
	__u32 spared;		/* a bit for each of everybody's that does not apply to this one */
};
_Static_assert(sizeof(struct quota_set) == 24, "struct quota_set");

/*
 * Under even epochs and under odd ones: the controller writes, of all that is
 * named, what will hold under the next epoch, which then holds in one step.
 */
struct quota_sets {
	struct quota_set under[2];
};
_Static_assert(sizeof(struct quota_sets) == 48, "struct quota_sets");

struct exe_key {
	__u64 inode;
	__u32 device;
	__u32 padding;
};
_Static_assert(sizeof(struct exe_key) == 16, "struct exe_key");

enum named {
	NAMED_APP = 0,		/* by its name */
	NAMED_EXE = 1,		/* by its path, as the two that follow */
	NAMED_CGROUP = 2,
	NAMED_UNIT = 3,		/* by the last part of its path */
	NAMED_APP_OF_EXE = 4,	/* the app of all processes of an executable, whatever else says another */
	NAMED_APP_OF_CGROUP = 5, /* the same of a cgroup, those below it apart */
};

/* What quotas name by its name or path: the hash of that, see naming.h. */
struct name_key {
	__u64 hash;
	__u32 named;		/* enum named */
	__u32 padding;
};
_Static_assert(sizeof(struct name_key) == 16, "struct name_key");

/*
 * The quotas that apply to a slot's process. Each CPU finds them for itself when
 * the process moves its first packet there under an epoch, so that none reads
 * what another is writing.
 */
struct slot_quotas {
	__u32 epoch;
	__u32 count;
	__u16 quotas[QUOTAS_PER_PROCESS];
	__u32 generation;	/* of the slot, and */
	__u32 revision;		/* of its process's record, that this is about */
};
_Static_assert(sizeof(struct slot_quotas) == 64, "struct slot_quotas");

/* What one entry of their map holds; the number of slots is a multiple of it. */
#define QUOTAS_PER_BLOCK 64

struct quotas_block {
	struct slot_quotas quotas[QUOTAS_PER_BLOCK];
};
_Static_assert(sizeof(struct quotas_block) == 4096, "struct quotas_block");

/* The cgroups in which a slot's process is, its own first. */
struct ancestry {
	__u64 cgroups[ANCESTORS];	/* their ids */
	__u64 paths[ANCESTORS + 1];	/* the hashes of their paths; the last is that of what is above */
	__u64 named;			/* the app that they name, as in struct process; 1: none */
	__u32 unit;			/* where in the record the unit's name begins, and, << 16, where it ends */
	__u32 padding;
};
_Static_assert(sizeof(struct ancestry) == 8 * (2 * ANCESTORS + 3), "struct ancestry");

/* --- names: see naming.h --------------------------------------------------- */

#define PREFIX_BYTES 4
#define MANAGER_PREFIX_BYTES 7
#define CONTAINER_PREFIX_BYTES 12

/* What a word says of the name that it is, or is a part of. */
enum word_meaning {
	WORD_SCOPE = 1 << 0,		/* what units' names end with */
	WORD_SERVICE = 1 << 1,
	WORD_DESKTOP = 1 << 2,		/* with what they begin, PREFIX_BYTES long */
	WORD_SNAP = 1 << 3,
	WORD_TRANSIENT = 1 << 4,
	WORD_HOST_PREFIX = 1 << 5,
	WORD_RANDOM = 1 << 6,		/* stands where else a launch's number stands */
	WORD_HOST = 1 << 7,		/* a service that runs what others tell it to */
	WORD_TERMINAL = 1 << 8,
	WORD_CONTAINERS = 1 << 9,	/* a cgroup of containers, or CONTAINER_PREFIX_BYTES of such */
	WORD_MANAGER = 1 << 10,		/* one below which services are, by their names */
	WORD_MANAGER_PREFIX = 1 << 11,	/* the same, MANAGER_PREFIX_BYTES before their names */
	WORD_PIPES = 1 << 12,		/* where no script is a file */
	WORD_RUNNER = 1 << 13,		/* a program that runs others, of one of the following kinds */
	WORD_MULTI_CALL = 1 << 14,
	WORD_INTERPRETER = 1 << 15,
	WORD_PLUS = 1 << 16,		/* one whose options may begin with a plus */
	WORD_LONG = 1 << 17,		/* one whose long options may bring the script */
	WORD_NOT_FOLLOWED = 1 << 18,	/* one whose command line is not understood here */
};

/* Of an interpreter also how its command line is read: letters, a bit for each from 64 on. */
struct word {
	__u32 meanings;
	__u32 options;		/* the same for those that read it alike */
	__u64 value;		/* has a value: the rest of the word, or the next word */
	__u64 attached;		/* the rest of the word is its value */
	__u64 code;		/* there is no script */
	__u64 script;		/* its value is the script */
};
_Static_assert(sizeof(struct word) == 40, "struct word");

/* Of blocked packets. */
struct blocked_key {
	__u32 link;
	__u32 slot;
};
_Static_assert(sizeof(struct blocked_key) == 8, "struct blocked_key");

/* Set before loading: constant to the verifier, which drops what it rules out. */
struct settings {
	__u32 slots_per_link;
	__u32 links;
	__u32 sees_forks;	/* process_forked is loaded: OWNER_EXCLUSIVE can be relied upon */
	__u32 follows;		/* commands are followed: `commands` and `descendants` are in use */
	__u32 enforces;		/* quotas are looked at */
};
_Static_assert(sizeof(struct settings) == 20, "struct settings");

#endif
