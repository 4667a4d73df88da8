/* tests/unit/transport/test_fabric_offer.c - offers as bytes: what goes in comes out, garbage does
 * not. */
#include "test.h"

#include "transport/transport.h"

#include <stdio.h>

static size_t encoded(const struct hm_fabric_offer *offer, uint8_t *bytes, size_t bytes_max)
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, bytes_max);
    hm_fabric_offer_encode(offer, &writer);
    assert_true(hm_writer_ok(&writer));
    return hm_writer_count(&writer);
}

static struct hm_fabric_offer offer_make(uint16_t address_bytes)
{
    struct hm_fabric_offer offer = {.token = 0x1122334455667788, .address_bytes = address_bytes};
    memset(offer.settings, 's', sizeof offer.settings - 1);
    for (unsigned i = 0; i < address_bytes; i++) offer.address[i] = (uint8_t)(i * 7);
    return offer;
}

static void the_largest_offer_fits_the_bound_and_comes_back(void **state)
{
    (void)state;
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_fabric_offer offer = offer_make(HM_FABRIC_ADDRESS_BYTES_MAX), read;
    size_t count = encoded(&offer, bytes, sizeof bytes);
    assert_ok(hm_fabric_offer_decode(bytes, count, &read));
    assert_memory_equal(&read, &offer, sizeof offer);
}

static void an_offer_that_is_cut_short_or_too_long_is_garbage(void **state)
{
    (void)state;
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX + 1] = {0};
    struct hm_fabric_offer offer = offer_make(50), read;
    size_t count = encoded(&offer, bytes, sizeof bytes);
    for (size_t i = 0; i < count; i++)
        assert_status(hm_fabric_offer_decode(bytes, i, &read), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_fabric_offer_decode(bytes, count + 1, &read), HM_ERR_PEER_PROTOCOL);
}

static void an_offer_without_token_or_address_or_with_odd_text_is_garbage(void **state)
{
    (void)state;
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_fabric_offer bad[3] = {offer_make(5), offer_make(0), offer_make(5)}, read;
    bad[0].token = 0;
    snprintf(bad[2].settings, sizeof bad[2].settings, "two\nlines");
    for (unsigned i = 0; i < 3; i++) {
        size_t count = encoded(&bad[i], bytes, sizeof bytes);
        assert_status(hm_fabric_offer_decode(bytes, count, &read), HM_ERR_PEER_PROTOCOL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_offer_fits_the_bound_and_comes_back),
        cmocka_unit_test(an_offer_that_is_cut_short_or_too_long_is_garbage),
        cmocka_unit_test(an_offer_without_token_or_address_or_with_odd_text_is_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
