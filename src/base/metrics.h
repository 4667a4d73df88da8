/* base/metrics.h - a registry of named counters, gauges and histograms.
 *
 * Modules embed a hm_metric each, register it at open and drop it at close; the hot path touches
 * only the value.
 * Thread: the loop's, as are the values (a lane's counters are added by the loop when a batch comes
 * back). */
#ifndef HM_BASE_METRICS_H
#define HM_BASE_METRICS_H

#include "base/histogram.h"
#include "base/json.h"
#include "base/list.h"

enum hm_metric_kind { HM_COUNTER, HM_GAUGE, HM_HISTOGRAM };
struct hm_metric {
    struct hm_link link;
    const char *name; /* static: "tcp.bytes_sent"; unit last */
    const char *help;
    enum hm_metric_kind kind;
    uint64_t value;                 /* counter, gauge */
    struct hm_histogram *histogram; /* histogram only; the module's memory */
};
struct hm_metrics {
    struct hm_link head;
};

void hm_metrics_init(struct hm_metrics *metrics);
/* Names need not be unique: values are summed. */
void hm_metrics_add(struct hm_metrics *metrics, struct hm_metric *metric);
void hm_metrics_remove(struct hm_metric *metric);
/* The sum of the counters or gauges of that name; 0 if there is none. */
uint64_t hm_metrics_value(const struct hm_metrics *metrics, const char *name);
/* Every metric by itself, in the order of adding; `visit` must not add or remove any. */
void hm_metrics_each(const struct hm_metrics *metrics,
                     void (*visit)(void *arg, const struct hm_metric *metric), void *arg);
/* {"tcp.bytes_sent": 123, "rpc.round_trip_us": {"count":…,"p50":…,"p99":…,"max":…}} */
void hm_metrics_json(const struct hm_metrics *metrics, const char *key, struct hm_json *json);

#endif
