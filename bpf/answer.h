/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What programs and their peers are told of what may not pass. */
#ifndef ESIMBPF_ANSWER_H
#define ESIMBPF_ANSWER_H

#include <stdbool.h>
#include "vmlinux.h"
#include "maps.h"
#include "owner.h"
#include "packet.h"
#include "verdict.h"

/* --- telling the peer ----------------------------------------------------------- */

#define UNLIMITED (~0U)
#define SMALLEST_WINDOW 2048

/* The bytes that a slot may receive over a link now, by the rates of its quotas that are used up. */
__noinline __u32 receivable(__u32 slot, __u32 link)
{
	struct slot_quotas *quotas = quotas_of(slot);
	__u64 now = bpf_ktime_get_ns(), least = UNLIMITED;
	int i;

	if (!quotas)
		return UNLIMITED;
	for (i = 0; i < QUOTAS_PER_PROCESS; i++) {
		struct quota_terms *terms;
		struct quota_use *use;
		__u64 free_at, saved, bytes;

		if (i >= quotas->count)
			break;
		terms = quota_terms_of(quotas->quotas[i]);
		use = quota_use_at(quotas->quotas[i]);
		if (!terms || !use || terms->action != QUOTA_THROTTLE || !(terms->links >> (link & 31) & 1) ||
		    !(terms->counts & QUOTA_COUNTS_RECEIVED) || use->bytes < terms->stop_at_bytes)
			continue;
		free_at = use->free_at_ns[0];
		saved = free_at && free_at < now ? now - free_at : 0;
		if (saved > terms->burst_ns)
			saved = terms->burst_ns;
		bytes = saved * terms->bytes_per_s / NS_PER_S;
		if (!free_at)
			bytes = SMALLEST_WINDOW;
		if (bytes < least)
			least = bytes;
	}
	return least;
}

/*
 * What comes in too fast has been paid for when it is dropped. So TCP's peer is
 * told not to send more than may come in: the window that a process's packet
 * offers is made smaller. At zero the peer asks again, a few times a second.
 */
static __noinline int limit_window(struct __sk_buff *skb, __u32 offset, __u32 slot, __u32 link)
{
	struct bpf_sock *socket = skb->sk;
	struct tcp_sock *tcp_sock;
	struct tcp_header tcp = {};
	__u32 at, most, scale;
	struct headers headers = {};
	__be16 window;

	if (!socket)
		return 0;
	socket = bpf_sk_fullsock(socket);
	if (!socket || socket->protocol != IPPROTO_TCP || socket->state == BPF_TCP_LISTEN)
		return 0;
	most = receivable(slot, link);
	if (most == UNLIMITED || !is_plain_tcp(skb, offset, &headers))
		return 0;
	at = offset + headers.transport_at;
	if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)) || tcp.flags & (TCP_SYN | TCP_RST))
		return 0;
	tcp_sock = (void *)kernel_socket(skb);
	scale = BPF_CORE_READ_BITFIELD_PROBED(tcp_sock, rx_opt.rcv_wscale);
	most -= most / 16; /* headers count, and windows know of none */
	most = most < SMALLEST_WINDOW ? 0 : most >> (scale & 0xf);
	if (most >= bpf_ntohs(tcp.window))
		return 0;
	window = bpf_htons(most);
	bpf_l4_csum_replace(skb, at + __builtin_offsetof(struct tcp_header, checksum), tcp.window, window, 2);
	bpf_skb_store_bytes(skb, at + __builtin_offsetof(struct tcp_header, window), &window, sizeof(window), 0);
	return 0;
}

/* --- telling the program --------------------------------------------------------- */

/*
 * A TCP socket whose packet is blocked would try again for minutes. It is
 * given the answer that it would get from a peer that does not want it: the
 * packet goes back as a reset, marked, so that it is not counted as received.
 */
#define RESET_MARK 0x65536d52
static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* Turns a header around: who was called answers. `length` is of all that was sent behind it, without options. */
static __always_inline void turn_around(struct tcp_header *tcp, __u32 payload)
{
	struct tcp_header was = *tcp;
	__u32 length = payload + !!(was.flags & TCP_SYN) + !!(was.flags & TCP_FIN);

	tcp->source = was.destination;
	tcp->destination = was.source;
	tcp->offset = TCP_BYTES / 4 << 4;
	tcp->window = tcp->urgent = tcp->checksum = 0;
	if (was.flags & TCP_ACK) {
		tcp->sequence = was.acknowledged;
		tcp->acknowledged = 0;
		tcp->flags = TCP_RST;
	} else {
		tcp->sequence = 0;
		tcp->acknowledged = bpf_htonl(bpf_ntohl(was.sequence) + length);
		tcp->flags = TCP_RST | TCP_ACK;
	}
}

/* 1 if the packet, with its IP header at `offset`, has become the reset; options and extension headers go. */
static __noinline int become_reset(struct __sk_buff *skb, __u32 offset)
{
	struct headers headers = {};
	struct tcp_header tcp = {};
	__u8 ip[40] = {}, mac[12], other[6];
	__u32 six, at, ip_bytes, i;
	__u64 sum;

	if (!is_plain_tcp(skb, offset, &headers))
		return 0;
	at = offset + headers.transport_at;
	if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)) || tcp.flags & TCP_RST)
		return 0;
	turn_around(&tcp, skb->len - offset - headers.bytes);

	six = skb->protocol == bpf_htons(ETH_P_IPV6);
	ip_bytes = six ? 40 : 20;
	if (headers.transport_at > ip_bytes &&
	    bpf_skb_adjust_room(skb, -(__s32)(headers.transport_at - ip_bytes), BPF_ADJ_ROOM_NET, 0))
		return 0;
	if (six ? bpf_skb_load_bytes(skb, offset, ip, 40) : bpf_skb_load_bytes(skb, offset, ip, 20))
		return 0;
	at = offset + ip_bytes;
	if (bpf_skb_change_tail(skb, at + TCP_BYTES, 0))
		return 0;
	if (six) {
		__u8 *source = ip + 8, *destination = ip + 24;

		ip[4] = 0;
		ip[5] = TCP_BYTES;
		ip[6] = IPPROTO_TCP;
		ip[7] = 64;
#pragma unroll
		for (i = 0; i < 16; i++) {
			__u8 byte = source[i];

			source[i] = destination[i];
			destination[i] = byte;
		}
		sum = bpf_csum_diff(NULL, 0, (__be32 *)source, 32, bpf_htonl(TCP_BYTES + IPPROTO_TCP));
	} else {
		__u8 *source = ip + 12, *destination = ip + 16;

		ip[0] = 0x45;
		ip[2] = 0;
		ip[3] = 20 + TCP_BYTES;
		ip[6] = ip[7] = ip[10] = ip[11] = 0;
		ip[8] = 64;
#pragma unroll
		for (i = 0; i < 4; i++) {
			__u8 byte = source[i];

			source[i] = destination[i];
			destination[i] = byte;
		}
		*(__u16 *)(ip + 10) = folded(bpf_csum_diff(NULL, 0, (__be32 *)ip, 20, 0));
		sum = bpf_csum_diff(NULL, 0, (__be32 *)source, 8, bpf_htonl(TCP_BYTES + IPPROTO_TCP));
	}
	tcp.checksum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&tcp, TCP_BYTES, sum));
	if (six ? bpf_skb_store_bytes(skb, offset, ip, 40, 0) : bpf_skb_store_bytes(skb, offset, ip, 20, 0))
		return 0;
	if (bpf_skb_store_bytes(skb, at, &tcp, TCP_BYTES, 0))
		return 0;
	if (offset >= 14) {
		if (bpf_skb_load_bytes(skb, 0, mac, 12))
			return 0;
		__builtin_memcpy(other, mac, 6);
		__builtin_memcpy(mac, mac + 6, 6);
		__builtin_memcpy(mac + 6, other, 6);
		if (bpf_skb_store_bytes(skb, 0, mac, 12, 0))
			return 0;
	}
	skb->mark = RESET_MARK;
	return 1;
}

/* The connection that a received packet is of, and its TCP header, whose place is given; -1 if it is of none. */
static __noinline int flow_of(struct __sk_buff *skb, __u32 offset, struct flow *flow, struct tcp_header *tcp)
{
	struct headers headers = {};

	if (!flow || !tcp || !is_plain_tcp(skb, offset, &headers))
		return -1;
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, offset + 8, flow->remote, 16) ||
		    bpf_skb_load_bytes(skb, offset + 24, flow->local, 16))
			return -1;
	} else if (bpf_skb_load_bytes(skb, offset + 12, flow->remote, 4) ||
		   bpf_skb_load_bytes(skb, offset + 16, flow->local, 4)) {
		return -1;
	}
	if (bpf_skb_load_bytes(skb, offset + headers.transport_at, tcp, sizeof(*tcp)))
		return -1;
	flow->remote_port = tcp->source;
	flow->local_port = tcp->destination;
	return headers.transport_at;
}

/*
 * A program that only receives would wait for ever. Where its packet is blocked
 * the packet cannot be changed; so its connection is noted, and when the peer
 * sends the same again, it is made a reset before it gets there.
 */
static __noinline int want_reset(struct __sk_buff *skb, __u32 slot)
{
	struct unwanted *known, fresh = { .slot = slot };
	struct tcp_header tcp = {};
	struct flow flow = {};

	if (flow_of(skb, 0, &flow, &tcp) < 0)
		return 0;
	if ((tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return 0; /* nobody waits for it yet, and anybody may send it */
	fresh.sequence = bpf_ntohl(tcp.sequence);
	known = unwanted_find(&flow);
	if (known) {
		known->slot = slot;
		if ((__s32)(fresh.sequence - known->sequence) < 0)
			known->sequence = fresh.sequence;
	} else if (!unwanted_add(&flow, &fresh)) {
		__sync_fetch_and_add(&watched.resets_wanted, 1);
	}
	return 0;
}

/* What a received packet is made, if its connection is to be ended. RFC 5961 wants the very byte that comes next. */
static __noinline int reset_receiver(struct __sk_buff *skb, __u32 link, __u32 offset)
{
	struct tcp_header tcp = {};
	struct unwanted *unwanted;
	struct flow flow = {};
	__be16 before, after;
	int at = flow_of(skb, offset, &flow, &tcp);

	if (at < 0)
		return 0;
	unwanted = unwanted_find(&flow);
	if (!unwanted)
		return 0;
	if (is_blocked(unwanted->slot, link)) {
		if (bpf_ntohl(tcp.sequence) != unwanted->sequence)
			return 0;
		before = *(__be16 *)&tcp.offset;
		after = before | bpf_htons(TCP_RST);
		at += offset + __builtin_offsetof(struct tcp_header, offset);
		bpf_l4_csum_replace(skb, at + 4, before, after, sizeof(before));
		bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0);
	}
	if (!unwanted_forget(&flow))
		__sync_fetch_and_add(&watched.resets_wanted, -1);
	return 0;
}

static __always_inline bool is_our_reset(struct __sk_buff *skb)
{
	return skb->mark == RESET_MARK;
}

#endif
