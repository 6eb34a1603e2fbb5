/* content_internal: what store/content.c and store/content_writer.c share. */
#ifndef STORE_CONTENT_INTERNAL_H
#define STORE_CONTENT_INTERNAL_H

#include "store/content.h"

int map_node_encode(struct bytes *out, const struct map_node *node);
/* Read and decode a node, which must have this depth and cover ref->len bytes. */
int map_node_load(struct map_node *node, struct repo_reader *r, const struct node_ref *ref,
    uint8_t depth);

#endif
