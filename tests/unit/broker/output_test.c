/* SPDX-License-Identifier: MIT */

#include "broker/output.h"

#include "../suite.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* A socket pair that takes little at a time. */
static void narrow_pair(int pair[2])
{
    const int small = 4608;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
}

#define TOTAL (600 * 1024)

static void bytes_arrive_in_order_whatever_the_socket_takes(void **state)
{
    (void)state;
    static uint8_t sent[TOTAL], got[TOTAL + 1];
    unsigned seed = 1;
    for (size_t i = 0; i < TOTAL; i++)
        sent[i] = (uint8_t)rand_r(&seed);
    int pair[2];
    narrow_pair(pair);
    struct output output = { 0 };
    struct output_pool pool = { 0 };
    size_t at = 0, have = 0, blocked = 0;
    uint64_t written = 0;
    while (have < TOTAL) {
        size_t len = (size_t)rand_r(&seed) % 9000 + 1;
        len = len < TOTAL - at ? len : TOTAL - at;
        int how = rand_r(&seed) % 3;
        if (at < TOTAL && how == 0) {
            assert_int_equal(output_add(&output, &pool, sent + at, len), 0);
            at += len;
        } else if (at < TOTAL && how == 1) {
            struct publication *publication = publication_new("t", 1, NULL, 0, sent + at, len);
            assert_int_equal(output_add_payload(&output, publication), 0);
            publication_unref(publication); /* the output has its own reference */
            at += len;
        } else if (at < TOTAL) {
            len = len < OUTPUT_ROOM ? len : OUTPUT_ROOM;
            uint8_t *room = output_room(&output, &pool, len);
            assert_non_null(room);
            memcpy(room, sent + at, len / 2); /* less than was asked for */
            output_commit(&output, len / 2);
            at += len / 2;
        }
        CHECK(output.bytes == at - written, "%zu bytes wait", (size_t)output.bytes);
        int rc = output_write(&output, &pool, NULL, pair[0], &written);
        CHECK(rc == (written < at ? 0 : 1), "%d with %zu of %zu", rc, (size_t)written, at);
        CHECK(!output.first == (rc == 1) && output.bytes == at - written, "%s", "what is left");
        blocked += rc == 0;
        ssize_t n = recv(pair[1], got + have, (size_t)rand_r(&seed) % 9000 + 1, 0);
        have += n > 0 ? (size_t)n : 0;
        assert_true(have <= TOTAL);
    }
    assert_true(blocked > 10);
    assert_memory_equal(got, sent, TOTAL);
    assert_null(output.last);
    assert_true(pool.count > 0);
    output_pool_trim(&pool, 1);
    assert_int_equal(pool.count, 1);
    output_pool_trim(&pool, 0);
    assert_null(pool.free);
    close(pair[0]);
    close(pair[1]);
}

static void dropped_output_gives_back_chunks_and_references(void **state)
{
    (void)state;
    struct output output = { 0 };
    struct output_pool pool = { 0 };
    struct publication *publication = publication_new("t", 1, NULL, 0, "payload", 7);
    assert_int_equal(output_add(&output, &pool, "head", 4), 0);
    assert_int_equal(output_add_payload(&output, publication), 0);
    assert_int_equal(output_add(&output, &pool, "tail", 4), 0);
    assert_int_equal(output.bytes, 15);
    assert_int_equal(atomic_load(&publication->refs), 2);
    output_drop(&output, &pool);
    assert_int_equal(atomic_load(&publication->refs), 1);
    assert_int_equal(pool.count, 2);
    assert_int_equal(output.bytes, 0);
    assert_null(output.first);

    /* And they are used again. */
    assert_int_equal(output_add(&output, &pool, "head", 4), 0);
    assert_int_equal(pool.count, 1);
    output_drop(&output, &pool);
    output_pool_trim(&pool, 0);
    publication_unref(publication);
}

static void error_of_the_socket_is_told(void **state)
{
    (void)state;
    int pair[2];
    narrow_pair(pair);
    close(pair[1]);
    struct output output = { 0 };
    struct output_pool pool = { 0 };
    uint64_t written = 0;
    assert_int_equal(output_add(&output, &pool, "x", 1), 0);
    assert_int_equal(output_write(&output, &pool, NULL, pair[0], &written), -EPIPE);
    assert_int_equal(written, 0);
    output_drop(&output, &pool);
    output_pool_trim(&pool, 0);
    close(pair[0]);
}

TEST_SUITE("broker output", cmocka_unit_test(bytes_arrive_in_order_whatever_the_socket_takes),
           cmocka_unit_test(dropped_output_gives_back_chunks_and_references),
           cmocka_unit_test(error_of_the_socket_is_told));
