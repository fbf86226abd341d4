/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who owns a socket: processes get slots, sockets get owners.
 *
 *	socket() by a user process   sock_create       owner = the process
 *	accept()                     BPF_F_CLONE       owner = the listener's, until …
 *	send, recv by another        tracepoints       owner = the process that uses it
 *	send by another, its packet  claim_sender()    the same, before the packet is counted
 *	opened before the start      task_file         owner = its first holder
 */
#ifndef ESIMBPF_OWNER_H
#define ESIMBPF_OWNER_H

#include <stdbool.h>
#include <linux/in.h>
#include <linux/in6.h>
#include "vmlinux.h"
#include "maps.h"
#include "naming.h"

/* Reads through pointers that the verifier does not know. */
#define READ(pointer, field) ({						\
	typeof(pointer) pointer_ = (pointer);				\
	typeof(pointer_->field) value_; /* zeroed if it cannot be read */ \
	bpf_probe_read_kernel(&value_, sizeof(value_), &pointer_->field); \
	value_;								\
})

/*
 * The functions that follow are not static, so that the verifier looks at each
 * once and not at every path that leads to it; hence numbers and addresses as
 * arguments, and no pointers. `leader` leads a thread group.
 */

/*
 * The executable's path, leaf first, through all mounts up to the root of the
 * mount tree. bpf_d_path() is refused in these program types.
 */
__noinline int record_exe(__u32 slot, __u64 leader)
{
	struct process *process = process_at(slot);
	struct mm_struct *mm = READ((struct task_struct *)leader, mm);
	struct file *exe;
	struct dentry *dentry;
	struct mount *mount;
	struct inode *inode;
	__u32 at = 0;
	int i;

	if (!process)
		return 0;
	process->exe_bytes = 0;
	process->exe_inode = 0;
	process->exe_device = 0;
	if (!mm)
		return 0;
	exe = READ(mm, exe_file);
	if (!exe)
		return 0;
	dentry = READ(exe, f_path.dentry);
	mount = (void *)READ(exe, f_path.mnt) - bpf_core_field_offset(struct mount, mnt);
	inode = READ(dentry, d_inode);
	process->exe_inode = READ(inode, i_ino);
	process->exe_device = READ(READ(inode, i_sb), s_dev);

	for (i = 0; i < MAX_PATH_DEPTH; i++) {
		struct dentry *parent = READ(dentry, d_parent);
		const unsigned char *name;
		long n;

		if (dentry == READ(mount, mnt.mnt_root) || dentry == parent) {
			struct mount *below = READ(mount, mnt_parent);

			if (below == mount || !below)
				break;
			dentry = READ(mount, mnt_mountpoint);
			mount = below;
			continue;
		}
		if (at >= PATH_BYTES)
			break;
		name = READ(dentry, d_name.name);
		n = bpf_probe_read_kernel_str(&process->exe[at], PATH_BYTES, name);
		if (n <= 0)
			break;
		at += n;
		dentry = parent;
	}
	process->exe_bytes = at;
	return 0;
}

/* The cgroup's path, leaf first, up to the root of the hierarchy. */
__noinline int record_cgroup(__u32 slot, __u64 leader)
{
	struct process *process = process_at(slot);
	struct task_struct *task = (void *)leader;
	struct kernfs_node *node = READ(READ(READ(task, cgroups), dfl_cgrp), kn);
	struct ancestry *ancestry = ancestry_of(slot);
	__u32 at = 0;
	int i;

	if (!process || !ancestry)
		return 0;
	process->cgroup_id = READ(node, id);
	for (i = 0; i < MAX_PATH_DEPTH; i++) {
		struct kernfs_node *parent;
		long n;

		if (i < ANCESTORS)
			ancestry->cgroups[i] = node ? READ(node, id) : 0;
		if (bpf_core_field_exists(struct kernfs_node, __parent))
			parent = READ(node, __parent);
		else
			parent = READ((struct kernfs_node___before_6_15 *)node, parent);
		if (!parent && i + 1 < ANCESTORS)
			ancestry->cgroups[i + 1] = 0;
		if (!parent || at >= PATH_BYTES)
			break;
		n = bpf_probe_read_kernel_str(&process->cgroup[at], PATH_BYTES, READ(node, name));
		if (n <= 0)
			break;
		at += n;
		node = parent;
	}
	process->cgroup_bytes = at;
	return 0;
}

/* The command line; only where the process itself runs, since it is in its memory. */
__noinline int record_args(__u32 slot, __u64 leader)
{
	struct process *process = process_at(slot);
	struct mm_struct *mm = READ((struct task_struct *)leader, mm);
	unsigned long start, length;

	if (!process)
		return 0;
	process->args_bytes = 0;
	if (!mm)
		return 0;
	start = READ(mm, arg_start);
	length = READ(mm, arg_end) - start;
	if (length == 0)
		return 0;
	if (length > ARGS_BYTES)
		length = ARGS_BYTES;
	if (bpf_probe_read_user(process->args, length, (void *)start) == 0)
		process->args_bytes = length;
	return 0;
}

/* `running` says that this code runs in the process itself. */
__noinline int record_process(__u32 slot, __u64 leader_address, __u32 running)
{
	struct process *process = process_at(slot);
	struct task_struct *leader = (void *)leader_address;

	if (!process)
		return 0;
	process->start_ns = READ(leader, start_boottime);
	process->tgid = READ(leader, tgid);
	process->uid = READ(READ(leader, cred), uid.val);
	process->args_bytes = 0;
	bpf_probe_read_kernel(process->comm, sizeof(process->comm), &leader->comm);
	record_exe(slot, leader_address);
	record_cgroup(slot, leader_address);
	if (running)
		record_args(slot, leader_address);
	return 0;
}

/* Describes a slot's process; from then on the slot is its. */
static __always_inline void describe(__u32 slot, __u64 leader, __u32 running)
{
	struct slot *state = slot_at(slot);

	record_process(slot, leader, running);
	if (settings.enforces) {
		note_exe(slot);
		note_cgroup(slot);
		note_app(slot);
	}
	if (state) {
		state->revision++;
		state->state = SLOT_LIVE;
	}
}

static __always_inline struct process_key process_key_of(struct task_struct *leader)
{
	struct process_key key = {
		.start_ns = READ(leader, start_boottime),
		.tgid = READ(leader, tgid),
	};

	return key;
}

/*
 * The slot of a process, given to it if it has none.
 * SLOT_OVERFLOW when no slot is free: the bytes are counted, without a name.
 */
__noinline __u32 process_slot(__u64 leader_address, __u32 running)
{
	struct task_struct *leader = (void *)leader_address;
	struct process_key key = process_key_of(leader);
	__u32 *found, slot;

	found = process_slot_find(&key);
	if (found)
		return *found;
	if (free_slot_take(&slot))
		return SLOT_OVERFLOW;
	if (process_slot_insert(&key, slot)) {
		/* Another thread of the process was faster. */
		free_slot_give(slot);
		found = process_slot_find(&key);
		return found ? *found : SLOT_OVERFLOW;
	}
	describe(slot, leader_address, running);
	return slot;
}

static __always_inline void owner_set(struct owner *owner, struct task_struct *task, __u32 running)
{
	struct task_struct *leader = READ(task, group_leader);
	__u32 slot = process_slot((__u64)leader, running);
	struct slot *state = slot_at(slot);

	owner->start_ns = READ(leader, start_boottime);
	owner->tgid = READ(leader, tgid);
	owner->stranger_tgid = 0;
	owner->generation = state ? state->generation : 0;
	owner->slot = slot;
}

static __always_inline __u32 owner_flags_of(__u32 family, __u32 type, __u32 protocol)
{
	if (family == AF_PACKET)
		return OWNER_PACKET;
	if (type == SOCK_RAW || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return OWNER_SHARED_DELIVERY;
	return type == SOCK_STREAM ? 0 : OWNER_DATAGRAM;
}

static __always_inline bool family_counts(__u32 family)
{
	return family == AF_INET || family == AF_INET6 || family == AF_PACKET;
}

/* For hooks that hold a kernel socket: tracepoints and the iterator. */
static __always_inline void owner_describe(struct owner *owner, struct sock *sk)
{
	owner->netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	owner->flags = owner_flags_of(sk->__sk_common.skc_family, sk->sk_type, sk->sk_protocol);
}

/* A process may have given its sockets away: each packet of them is looked at from now on. */
static __always_inline int process_shares(struct task_struct *task)
{
	struct process_key key = process_key_of(READ(task, group_leader));
	__u32 *slot = process_slot_find(&key);
	struct slot *state = slot ? slot_at(*slot) : NULL;

	if (state && !state->shares)
		state->shares = 1;
	return 0;
}

/* A command's child is its descendant, and so is a descendant's. */
static __always_inline void follow_child(struct task_struct *parent, struct task_struct *child)
{
	struct process_key of_parent = process_key_of(READ(parent, group_leader));
	struct process_key of_child = process_key_of(child);
	struct descendant *descendant;

	if (command_is(of_parent.tgid)) {
		descendant_add(&of_child, of_parent.tgid);
		return;
	}
	descendant = descendant_find(&of_parent);
	if (descendant)
		descendant_add(&of_child, descendant->command);
}

static __always_inline int process_fork(struct task_struct *parent, struct task_struct *child)
{
	if (parent->tgid == child->tgid)
		return 0; /* a thread */
	if (settings.follows)
		follow_child(parent, child);
	return process_shares(parent);
}

/* A process has called send or recv on a socket: from now on it is the owner. */
static __always_inline int socket_used(struct sock *sk, bool sent)
{
	__u32 family = sk->__sk_common.skc_family;
	struct task_struct *task;
	struct owner *owner;

	if (family == AF_UNIX && sent) /* descriptors may have gone along (SCM_RIGHTS) */
		return process_shares(bpf_get_current_task_btf());
	if (!family_counts(family))
		return 0;
	/* A datagram has left by now, and claim_sender() has seen who sent it. */
	if (sent && sk->sk_type != SOCK_STREAM)
		return 0;
	task = bpf_get_current_task_btf();
	owner = owner_create(sk);
	if (!owner)
		return 0; /* no memory for it: its bytes stay with the owner before, or unattributed */
	if (owner->tgid == task->tgid && owner->start_ns == task->group_leader->start_boottime) {
		if (settings.sees_forks && !(owner->flags & (OWNER_EXCLUSIVE | OWNER_SHARED)))
			owner->flags |= OWNER_EXCLUSIVE;
		return 0;
	}
	if (task->flags & PF_KTHREAD)
		return 0; /* a kernel thread that works for somebody */
	owner_describe(owner, sk);
	owner->flags |= OWNER_SHARED;
	owner_set(owner, task, true);
	return 0;
}

/* An open descriptor at the start: its first holder is taken for the owner. */
static __always_inline int socket_found(struct task_struct *task, struct file *file)
{
	struct socket *socket;
	struct owner *owner;
	struct slot *state;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !family_counts(sk->__sk_common.skc_family))
		return 0;
	owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	if (owner)
		return 0;
	owner = owner_create(sk);
	if (!owner)
		return 0;
	owner_describe(owner, sk);
	owner_set(owner, task, false);
	state = slot_at(owner->slot);
	if (state)
		state->shares = 1; /* nobody knows what the process did before */
	return 0;
}

/* The last thread of a process ends. Its sockets may yet send what they hold. */
static __always_inline int process_exit(struct task_struct *task)
{
	struct process_key key = process_key_of(READ(task, group_leader));
	struct descendant *descendant;
	struct slot *state;
	__u32 *slot;

	if (task->signal->live.counter > 0)
		return 0;
	descendant = settings.follows ? descendant_find(&key) : NULL;
	if (descendant)
		descendant->exited = 1;
	slot = process_slot_find(&key);
	if (!slot)
		return 0;
	state = slot_at(*slot);
	if (state)
		state->state = SLOT_EXITED;
	process_slot_forget(&key);
	return 0;
}

/* The same process with another program: the same slot, described anew. */
static __always_inline int process_exec(struct task_struct *task)
{
	struct task_struct *leader = READ(task, group_leader);
	struct process_key key = process_key_of(leader);
	__u32 *slot = process_slot_find(&key);

	if (slot)
		describe(*slot, (__u64)leader, true);
	return 0;
}

/* A process has gone to another cgroup, as desktops move what they have started. */
static __always_inline int process_move(struct task_struct *task)
{
	struct task_struct *leader = READ(task, group_leader);
	struct process_key key = process_key_of(leader);
	__u32 *slot = process_slot_find(&key);
	struct slot *state = slot ? slot_at(*slot) : NULL;

	if (!state)
		return 0;
	record_cgroup(*slot, (__u64)leader);
	if (settings.enforces) {
		note_cgroup(*slot);
		note_app(*slot);
	}
	state->revision++;
	return 0;
}

/* The kernel's own address of a packet's socket, which the context hides. */
static __always_inline struct sock *kernel_socket(struct __sk_buff *skb)
{
	return READ((struct sk_buff *)skb, sk);
}

#define FDS_AT_ONCE 16
#define FDS_SEARCHED 1024

/* Whether a descriptor of the task, among the first FDS_SEARCHED, is the socket. */
__noinline __u32 task_holds(__u64 task_address, __u64 sock_address)
{
	struct task_struct *task = (void *)task_address;
	struct sock *sk = (void *)sock_address;
	struct socket *socket = READ(sk, sk_socket);
	struct fdtable *table;
	struct file **descriptors, *file;
	__u64 others = ~0ULL; /* its top bit: none of those seen is the file */
	__u32 base, size;
	int i;

	if (!socket)
		return 0;
	file = READ(socket, file);
	table = READ(READ(task, files), fdt);
	size = READ(table, max_fds);
	descriptors = READ(table, fd);
	/* A table is a multiple of FDS_AT_ONCE (fs/file.c rounds it up to BITS_PER_LONG). */
	for (base = 0; base < FDS_SEARCHED; base += FDS_AT_ONCE) {
		struct file *some[FDS_AT_ONCE] = {};

		if (base >= size)
			break;
		if (bpf_probe_read_kernel(some, sizeof(some), descriptors + base))
			break;
		/* Without branches, which the verifier would follow one by one. */
#pragma unroll
		for (i = 0; i < FDS_AT_ONCE; i++) {
			__u64 difference = (__u64)some[i] ^ (__u64)file;

			others &= difference | -difference;
		}
		if (!(others >> 63))
			return 1;
	}
	return 0;
}

/*
 * Whether the current task is in a call of its own that sends on this socket,
 * so that the packet at hand is its packet.
 *
 * A stream socket is locked by the task that calls send, and everything that
 * happens to it behind that task's back (acknowledgements in softirq, timers)
 * waits until it is unlocked. Datagrams are sent in the call itself, or later
 * by somebody who does not hold the socket: after address resolution, by
 * NFQUEUE, by a TUN's writer.
 */
static __always_inline bool sends_now(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (task->flags & PF_KTHREAD)
		return false;
	if (READ(sk, sk_type) == SOCK_STREAM && !READ(sk, sk_lock.owned))
		return false;
	return task_holds(bpf_get_current_task(), (__u64)sk);
}

/*
 * Whether somebody else than its owner may use a socket, so that its packets
 * are looked at one by one. Most need not be, and it is a helper's call, which
 * costs as much as the rest of the packet path.
 */
static __always_inline bool may_be_shared(const struct owner *owner, const struct slot *state)
{
	return !(owner->flags & OWNER_EXCLUSIVE) || state->shares ||
	       state->generation != owner->generation;
}

/*
 * If the process that sends this packet is not the socket's owner, the socket
 * was inherited or passed to it, and is its from now on. A hook before the send
 * (fentry) would know without looking, but locked-down kernels refuse it.
 */
static __noinline int claim_sender(struct __sk_buff *skb, struct owner *owner)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tgid = task->tgid;

	if (!owner)
		return 0;
	if (tgid == owner->tgid) {
		if (settings.sees_forks && !(owner->flags & OWNER_SHARED))
			owner->flags |= OWNER_EXCLUSIVE;
		return 0;
	}
	if (tgid == 0 || tgid == owner->stranger_tgid)
		return 0;
	if (sends_now(kernel_socket(skb))) {
		owner->flags = (owner->flags | OWNER_SHARED) & ~OWNER_EXCLUSIVE;
		owner_set(owner, task, true);
	} else if (owner->flags & (OWNER_SHARED_DELIVERY | OWNER_DATAGRAM | OWNER_PACKET)) {
		owner->stranger_tgid = tgid; /* a stream's lock tells as fast, and changes */
	}
	return 0;
}

#endif
