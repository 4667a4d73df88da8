/* base/metrics.c - a list of the modules' metrics, summed by name when somebody asks.
 *
 * Owns nothing but the list's head: metrics are the modules' memory.  Asking is quadratic in the
 * number of metrics (some dozens), and is done by people and by the admin port, never on a data
 * path. */
#include "base/metrics.h"

#include "base/assert.h"

#include <string.h>

static struct hm_metric *metric_of(struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct hm_metric, link);
}

void hm_metrics_init(struct hm_metrics *metrics)
{
    hm_list_init(&metrics->head);
}

void hm_metrics_add(struct hm_metrics *metrics, struct hm_metric *metric)
{
    HM_ASSERT(metric->name && (metric->kind == HM_HISTOGRAM) == (metric->histogram != NULL));
    hm_list_push(&metrics->head, &metric->link);
}

void hm_metrics_remove(struct hm_metric *metric)
{
    hm_list_remove(&metric->link);
}

uint64_t hm_metrics_value(const struct hm_metrics *metrics, const char *name)
{
    uint64_t sum = 0;
    HM_LIST_EACH (link, &metrics->head) {
        const struct hm_metric *metric = metric_of(link);
        if (metric->kind != HM_HISTOGRAM && strcmp(metric->name, name) == 0) sum += metric->value;
    }
    return sum;
}

void hm_metrics_each(const struct hm_metrics *metrics,
                     void (*visit)(void *arg, const struct hm_metric *metric), void *arg)
{
    HM_LIST_EACH (link, &metrics->head) visit(arg, metric_of(link));
}

/* Whether an earlier metric of this name and sort has already been written for both. */
static bool is_repeated(const struct hm_metrics *metrics, const struct hm_metric *metric)
{
    HM_LIST_EACH (link, &metrics->head) {
        const struct hm_metric *other = metric_of(link);
        if (other == metric) break;
        if (strcmp(other->name, metric->name) == 0) {
            HM_ASSERT((other->kind == HM_HISTOGRAM) == (metric->kind == HM_HISTOGRAM));
            return true;
        }
    }
    return false;
}

static void write_histogram(const struct hm_metrics *metrics, const char *name,
                            struct hm_json *json)
{
    struct hm_histogram sum; /* 8 KiB */
    hm_histogram_init(&sum);
    HM_LIST_EACH (link, &metrics->head) {
        const struct hm_metric *metric = metric_of(link);
        if (metric->kind == HM_HISTOGRAM && strcmp(metric->name, name) == 0)
            hm_histogram_merge(&sum, metric->histogram);
    }
    hm_json_object_begin(json, name);
    hm_json_uint(json, "count", sum.count);
    hm_json_double(json, "mean", hm_histogram_mean(&sum));
    hm_json_uint(json, "p50", hm_histogram_quantile(&sum, 0.5));
    hm_json_uint(json, "p90", hm_histogram_quantile(&sum, 0.9));
    hm_json_uint(json, "p99", hm_histogram_quantile(&sum, 0.99));
    hm_json_uint(json, "max", sum.max);
    hm_json_object_end(json);
}

void hm_metrics_json(const struct hm_metrics *metrics, const char *key, struct hm_json *json)
{
    hm_json_object_begin(json, key);
    HM_LIST_EACH (link, &metrics->head) {
        const struct hm_metric *metric = metric_of(link);
        if (is_repeated(metrics, metric)) continue;
        if (metric->kind == HM_HISTOGRAM)
            write_histogram(metrics, metric->name, json);
        else
            hm_json_uint(json, metric->name, hm_metrics_value(metrics, metric->name));
    }
    hm_json_object_end(json);
}
