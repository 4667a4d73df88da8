/* server/handle_info.c - questions about the server and its experts; nothing here changes anything. */
#include "server/internal.h"

#include <string.h>

void hm_expert_server_handle_info(void *arg, struct hm_request *request, const void *header,
                                  size_t header_bytes, struct hm_inbound *in)
{
    struct hm_expert_server *server = arg;
    struct hm_uid uid;
    hm_inbound_drop(in);
    enum hm_status status = hm_expert_query_decode(header, header_bytes, &uid);
    const struct hm_hosted *hosted = status ? NULL : hm_expert_server_find(server, uid.text);
    if (!status && !hosted) status = HM_ERR_EXPERT_GONE;
    if (status) {
        hm_request_reply(request, true, status, NULL, 0, NULL, 0);
        return;
    }
    const struct hm_plan *plan = hm_expert_plan(hosted->expert);
    struct hm_expert_info info = {.input = plan->input,
                                  .output = plan->output,
                                  .step = hosted->step,
                                  .parameter_count = plan->parameter_elements,
                                  .batch_rows_max = server->conf.batch_rows_max};
    strncpy(info.kind, hm_expert_conf(hosted->expert)->kind, sizeof(info.kind) - 1);
    uint8_t reply[HM_CALL_HEADER_BYTES_MAX];
    struct hm_writer writer;
    hm_writer_init(&writer, reply, sizeof(reply));
    hm_expert_info_encode(&info, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    hm_request_reply(request, true, HM_OK, reply, hm_writer_count(&writer), NULL, 0);
}

const char *hm_expert_server_bf16_text(const struct hm_expert_server *server)
{
    enum hm_bf16_way way;
    HM_LIST_EACH (link, &server->hosted_list) {
        const struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        if (hm_expert_conf(hosted->expert)->dtype == HM_BF16)
            return server->cpu->ops->bf16_text(server->cpu, &way);
    }
    return NULL;
}

void hm_expert_server_status_json(const struct hm_expert_server *server, struct hm_json *json)
{
    hm_json_object_begin(json, NULL);
    hm_json_array_begin(json, "experts");
    HM_LIST_EACH (link, &server->hosted_list) {
        const struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "uid", hosted->uid.text);
        hm_json_string(json, "kind", hm_expert_conf(hosted->expert)->kind);
        hm_json_uint(json, "hidden", hm_expert_conf(hosted->expert)->hidden);
        hm_json_string(json, "dtype", hm_dtype_name(hm_expert_conf(hosted->expert)->dtype));
        hm_json_uint(json, "step", hosted->step);
        hm_json_uint(json, "rows_queued",
                     hm_pool_rows_queued(hosted->pass[HM_PASS_FORWARD].pool) +
                         hm_pool_rows_queued(hosted->pass[HM_PASS_BACKWARD].pool));
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
    if (hm_expert_server_bf16_text(server))
        hm_json_string(json, "bf16", hm_expert_server_bf16_text(server));
    if (server->conf.metrics) hm_metrics_json(server->conf.metrics, "metrics", json);
    hm_json_object_end(json);
}

void hm_expert_server_handle_status(void *arg, struct hm_request *request, const void *header,
                                    size_t header_bytes, struct hm_inbound *in)
{
    struct hm_expert_server *server = arg;
    (void)header;
    (void)header_bytes;
    hm_inbound_drop(in);
    struct hm_json json;
    struct hm_buf *buf = NULL;
    struct hm_span span = {0};
    enum hm_status status = HM_ERR_NO_MEMORY;
    hm_json_init(&json);
    hm_expert_server_status_json(server, &json);
    const char *text = hm_json_text(&json);
    if (text) status = hm_buf_pool_get(server->conf.buffers, strlen(text), &buf);
    if (!status) {
        memcpy(buf->base, text, strlen(text));
        span = hm_buf_span(buf);
    }
    hm_request_reply(request, true, status, NULL, 0, &span, status ? 0 : 1);
    hm_buf_put(buf);
    hm_json_fini(&json);
}
