/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet's headers say. */
#ifndef ESIMBPF_PACKET_H
#define ESIMBPF_PACKET_H

#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "vmlinux.h"
#include "maps.h"

enum direction { RECEIVED, SENT };

/* A packet's billable bytes, and the packets that it is on the link. */
struct weight {
	__u64 bytes;
	__u64 packets;
};

#define MAX_HEADERS 8

static __always_inline bool is_ipv6_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_MH;
}

/* What the headers of an IP packet say. */
struct headers {
	__u32 bytes;		/* IP and all behind it up to the transport's payload */
	__u32 fragment_bytes;	/* the same up to what is fragmented, if it is a fragment */
	__u32 transport_at;	/* where the transport's header begins */
	__u32 ip_headers;	/* how many; more than one in a tunnel */
	__u8 protocol;		/* of what follows; of a fragment, none */
	bool fragment;
	bool first_fragment;
};

/*
 * Walks the headers of the IP packet at `offset`: IPv4 and IPv6 with extension
 * headers, one in the other, TCP or UDP at the end. What is none of these ends
 * the walk; its header counts as payload.
 */
static __noinline int walk_headers(struct __sk_buff *skb, __u32 offset, struct headers *headers)
{
	__u32 at = offset;
	__u8 next = 0, first = 0;
	int i;

	if (!headers)
		return -1;
	if (bpf_skb_load_bytes(skb, at, &first, 1))
		return -1;
	next = (first >> 4) == 6 ? IPPROTO_IPV6 : IPPROTO_IPIP;

	for (i = 0; i < MAX_HEADERS; i++) {
		__u8 raw[8];

		if (next == IPPROTO_IPIP) {
			__u32 length;

			if (bpf_skb_load_bytes(skb, at, raw, 8))
				return -1;
			headers->ip_headers++;
			length = (raw[0] & 0xf) * 4;
			if ((raw[6] & 0x3f) | raw[7]) {
				headers->fragment = true;
				headers->first_fragment = !((raw[6] & 0x1f) | raw[7]);
				headers->fragment_bytes = at + length - offset;
				break;
			}
			if (bpf_skb_load_bytes(skb, at + 9, &next, 1))
				return -1;
			at += length;
		} else if (next == IPPROTO_IPV6) {
			if (bpf_skb_load_bytes(skb, at + 6, &next, 1))
				return -1;
			headers->ip_headers++;
			at += 40;
		} else if (is_ipv6_extension(next)) {
			if (bpf_skb_load_bytes(skb, at, raw, 2))
				return -1;
			next = raw[0];
			at += (raw[1] + 1) * 8;
		} else if (next == IPPROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, at, raw, 8))
				return -1;
			/* An atomic fragment (offset 0, no more to come) is whole. */
			headers->fragment = (raw[2] | (raw[3] & 0xf9)) != 0;
			headers->first_fragment = !(raw[2] | (raw[3] & 0xf8));
			headers->fragment_bytes = at + 8 - offset;
			if (headers->fragment)
				break;
			next = raw[0];
			at += 8;
		} else if (next == IPPROTO_TCP) {
			if (bpf_skb_load_bytes(skb, at + 12, raw, 1))
				return -1;
			headers->transport_at = at - offset;
			at += (raw[0] >> 4) * 4;
			break;
		} else if (next == IPPROTO_UDP || next == IPPROTO_UDPLITE) {
			headers->transport_at = at - offset;
			at += 8;
			break;
		} else {
			headers->transport_at = at - offset;
			break;
		}
	}
	headers->bytes = at - offset;
	headers->protocol = next;
	return 0;
}

#define LARGEST_IPV6_PAYLOAD 65535
#define JUMBO_HEADER_BYTES 8

/*
 * An offload packet too large for IPv6's length field has a hop-by-hop header
 * with the true length (BIG TCP), which none of its segments will have. Later
 * kernels do without it.
 */
static __noinline __u32 jumbo_header_bytes(struct __sk_buff *skb, __u32 offset)
{
	__u8 head[7]; /* up to the next header's type; the payload's length is at 4 */

	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, offset, head, sizeof(head)))
		return 0;
	return head[4] == 0 && head[5] == 0 && head[6] == IPPROTO_HOPOPTS ? JUMBO_HEADER_BYTES : 0;
}

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_BYTES 20

struct tcp_header {
	__be16 source, destination;
	__be32 sequence, acknowledged;
	__u8 offset, flags;
	__be16 window, checksum, urgent;
};

/* Whether a packet is TCP, whole and in no tunnel; then says where its header begins. */
static __noinline bool is_plain_tcp(struct __sk_buff *skb, __u32 offset, struct headers *headers)
{
	return headers && !walk_headers(skb, offset, headers) && !headers->fragment && headers->ip_headers == 1 &&
	       headers->protocol == IPPROTO_TCP;
}

static __always_inline bool is_ip(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

/*
 * Where a frame that does not say IP has its IP packet: behind VLAN tags that
 * the device does not take off. 0 if it has none.
 */
static __noinline __u32 ip_behind_vlan(struct __sk_buff *skb, __u32 header_len)
{
	__be16 protocol = skb->protocol;
	struct vlan_header tag;
	__u32 offset = header_len;
	int i;

	for (i = 0; i < 2; i++) {
		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			return 0;
		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			return 0;
		offset += sizeof(tag);
		protocol = tag.protocol;
		if (protocol == bpf_htons(ETH_P_IP) || protocol == bpf_htons(ETH_P_IPV6))
			return offset;
	}
	return 0;
}

#endif
