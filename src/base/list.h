/* base/list.h - intrusive doubly linked ring; the head is a link too.  An idle link points at
 * itself. */
#ifndef HM_BASE_LIST_H
#define HM_BASE_LIST_H

#include "base/assert.h"

#include <stdbool.h>

struct hm_link {
    struct hm_link *next, *prev;
};

static inline void hm_list_init(struct hm_link *link)
{
    link->next = link->prev = link;
}
static inline bool hm_list_empty(const struct hm_link *head)
{
    return head->next == head;
}
static inline bool hm_list_linked(const struct hm_link *link)
{
    return link->next != link;
}
static inline void hm_list_push(struct hm_link *head, struct hm_link *link) /* at the end */
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}
static inline void hm_list_push_front(struct hm_link *head, struct hm_link *link)
{
    hm_list_push(head->next, link);
}
static inline void hm_list_remove(struct hm_link *link) /* idempotent */
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    hm_list_init(link);
}
static inline struct hm_link *hm_list_pop(struct hm_link *head) /* from the front; NULL if empty */
{
    struct hm_link *link = head->next;
    if (link == head) return NULL;
    hm_list_remove(link);
    return link;
}
#define HM_LIST_EACH(link, head)                                                                   \
    for (struct hm_link *link = (head)->next; link != (head); link = link->next)
/* As HM_LIST_EACH, when the body may remove `link` (and only `link`). */
#define HM_LIST_EACH_SAFE(link, head)                                                              \
    for (struct hm_link *link = (head)->next, *link##_next = link->next; link != (head);           \
         link = link##_next, link##_next = link->next)

#endif
