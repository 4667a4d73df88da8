/* examples/train.c - a whole trainer on the public API: two classes of points, one mixture of
 * remote experts.
 *
 *   hivemind serve --new-swarm --listen 127.0.0.1:4242 --experts 'ffn.[0:2].[0:2]' --hidden 16
 *   build/bin/example-train hm://...        prints the loss and the share of points that it gets right
 *
 * The points lie on two spirals, which no linear model can tell apart. */
#include "hivemind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 64, INPUTS = 2, HIDDEN = 16, CLASSES = 2, STEPS = 300 };

static void check(int status)
{
    if (!status) return;
    fprintf(stderr, "example-train: %s\n", hm_last_error());
    exit(1);
}

/* A batch of points: half of them on each arm. */
static void draw(float *x, int64_t *label)
{
    for (int i = 0; i < ROWS; i++) {
        float along = (float)rand() / (float)RAND_MAX, angle = 5.0f * along;
        label[i] = i % CLASSES;
        if (label[i]) angle += 3.14159265f;
        x[INPUTS * i] = along * cosf(angle);
        x[INPUTS * i + 1] = along * sinf(angle);
    }
}

static float share_right(const struct hm_array *logits, const int64_t *label)
{
    int right = 0;
    for (int i = 0; i < ROWS; i++)
        right += (logits->data[CLASSES * i + 1] > logits->data[CLASSES * i]) == label[i];
    return (float)right / ROWS;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: example-train hm://...\n");
        return 2;
    }
    struct hm_node *node;
    check(hm_node_open(&(struct hm_node_options){.join = argv[1]}, &node));

    /* The model: linear, a mixture of the four experts with a residual, layer norm, linear. */
    struct hm_module *first, *norm, *last;
    struct hm_remote_mixture *mixture;
    struct hm_remote_mixture_options options = {
        .name = "ffn", .grid_dims = 2, .grid = {2, 2}, .hidden = HIDDEN, .k_best = 2, .k_min = 1};
    check(hm_module_linear(node, INPUTS, HIDDEN, 1, &first));
    check(hm_remote_mixture_open(node, &options, &mixture));
    check(hm_module_layer_norm(node, HIDDEN, &norm));
    check(hm_module_linear(node, HIDDEN, CLASSES, 2, &last));

    struct hm_tape *tape;
    check(hm_tape_open(node, &tape));
    float x[ROWS * INPUTS], right = 0;
    int64_t label[ROWS];
    for (int step = 1; step <= STEPS; step++) {
        draw(x, label);
        hm_tape_reset(tape);
        struct hm_array points = {.dims = 2, .dim = {ROWS, INPUTS}, .data = x}, logits, loss_value;
        hm_value hidden = hm_tape_apply(tape, first, hm_tape_input(tape, &points));
        hidden = hm_tape_add(tape, hidden, hm_tape_remote_mixture(tape, mixture, hidden));
        hm_value out = hm_tape_apply(tape, last, hm_tape_apply(tape, norm, hidden));
        hm_value loss = hm_tape_cross_entropy(tape, out, label);

        /* Any op that failed shows here at the latest: its value, and all that depend on it, fail
         * too. */
        check(hm_tape_backward(tape, loss)); /* the remote experts make their own steps */
        check(hm_tape_read(tape, loss, &loss_value));
        check(hm_tape_read(tape, out, &logits));
        right = 0.9f * right + 0.1f * share_right(&logits, label);
        if (step % 50 == 0)
            printf("step %d loss %.3f right %.3f\n", step, loss_value.data[0], right);
        check(hm_tape_step(tape, 0.003f)); /* the local layers and the gate make theirs */
    }

    hm_tape_close(tape);
    hm_module_close(first);
    hm_module_close(norm);
    hm_module_close(last);
    hm_remote_mixture_close(mixture);
    hm_node_close(node);
    return right > 0.9f ? 0 : 1;
}
