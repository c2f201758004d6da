//! THE TABLE: one row per scenario.
//!
//! `name on OneThread;` demands equal observations.
//! `name on OneThread, differs: "...", ours: [..], published: [..];` is an intended difference: the reason, and what each
//! side shows.

use crate::rows::table;

table! {
    config {
        the_defaults_are_the_documented_ones on OneThread;
        unnamed_nodes_are_numbered_from_zero on OneThread;
        a_given_name_is_kept on OneThread;
        the_setup_budget_is_clamped_to_the_connection_limit on OneThread;
        a_limit_of_zero_connections_panics on OneThread;
        a_limit_of_zero_connections_per_ip_panics on OneThread;
        a_setup_budget_of_zero_panics on OneThread;
        a_new_node_has_done_nothing on OneThread;
        the_protocols_have_the_documented_defaults on OneThread;
        sides_and_origins_are_plain_values on OneThread;
        stats_add_up on OneThread;
        heuristics_start_at_zero on OneThread;
    }
    listener {
        switching_on_gives_the_bound_address on TwoWorkers;
        switching_off_ends_the_listening on OneThread;
        switching_off_has_closed_the_socket on OneThread,
            differs: "promised: when switching off has returned, a dial is refused and the port can be bound",
            ours: ["the port can be bound: true", r#"a dial: "ConnectionRefused (os error 111)""#],
            published: ["the port can be bound: false", r#"a dial: "ConnectionReset (os error 104)""#];
        the_listener_can_be_switched_many_times on TwoWorkers;
        a_given_port_can_be_bound_anew on OneThread;
        without_an_address_there_is_no_listener on OneThread;
        a_busy_port_cannot_be_bound on OneThread;
        a_foreign_address_cannot_be_bound on OneThread;
        reuse_listener_port_lets_two_nodes_share_one on OneThread;
        setups_outlive_the_listener on TwoWorkers;
        concurrent_switches_take_turns on TwoWorkers;
        a_dropped_switch_leaves_a_usable_listener on OneThread;
        a_dual_stack_listener_reports_mapped_addresses on OneThread;
        a_new_listener_does_not_disturb_live_connections on TwoWorkers;
    }
    dialling {
        a_dial_of_a_listening_node_succeeds on TwoWorkers;
        a_node_does_not_dial_its_listening_address on OneThread;
        a_wildcard_node_does_not_dial_itself_over_loopback on OneThread;
        a_wildcard_v6_node_does_not_dial_itself_over_loopback on OneThread;
        another_nodes_port_on_loopback_is_no_self_dial on OneThread;
        an_address_is_dialled_once on OneThread;
        an_address_that_is_being_dialled_is_taken on TwoWorkers;
        an_address_in_teardown_is_taken on TwoWorkers;
        a_refused_dial_gives_the_os_error on TwoWorkers;
        impossible_addresses_give_the_os_error on OneThread;
        a_dial_that_nobody_answers_times_out on OneThread;
        a_dial_timeout_of_zero_fails_at_once on OneThread;
        the_socket_of_the_caller_is_used on OneThread;
        a_tcp_self_dial_is_refused on OneThread,
            differs: "promised: a socket whose local and remote address are equal is a self-dial, AddrInUse",
            ours: [r#"connect_using_socket: "AddrInUse""#, "counts: (0, 0)"],
            published: [r#"connect_using_socket: "ok""#, "counts: (1, 0)"];
        a_peer_that_closes_during_the_handshake_was_connected on OneThread;
        a_peer_that_resets_during_the_handshake_was_connected on OneThread;
        a_peer_that_resets_before_the_dial_knows_of_it on OneThread,
            differs: "promised: connect succeeds once TCP is connected, even if the peer resets immediately",
            ours: ["connected at once: false", r#"connect: "ok""#, r#"on_disconnect: ["Reading"]"#],
            published: [
                "connected at once: false", r#"connect: "ConnectionReset (os error 104)""#, "on_disconnect: []",
            ];
        a_peer_that_closes_at_once_was_connected on OneThread;
        nodes_that_dial_each_other_have_two_connections on TwoWorkers;
        mapped_and_plain_addresses_are_different_peers on OneThread;
        without_reading_a_departed_peer_stays_listed on OneThread;
    }
    limits {
        dials_respect_the_limit_per_ip on OneThread;
        accepts_respect_the_limit_per_ip on OneThread;
        dials_respect_the_connection_limit on OneThread;
        accepts_respect_the_connection_limit on TwoWorkers;
        pending_connections_count_towards_the_limits on TwoWorkers;
        an_empty_budget_fails_a_dial on OneThread;
        a_live_address_wins_over_an_empty_budget on OneThread;
        an_empty_budget_makes_accepts_wait on TwoWorkers;
        an_idle_listener_holds_no_permit on OneThread;
        failed_dials_give_everything_back on TwoWorkers;
        mapped_peers_share_the_limit_of_their_ip on OneThread;
        nodes_within_limits_find_each_other on TwoWorkers;
    }
    handshake {
        a_failed_handshake_gives_the_users_error on OneThread;
        a_responder_that_refuses_closes_the_connection on OneThread;
        a_dialled_handshake_times_out on OneThread;
        an_accepted_handshake_times_out on TwoWorkers;
        a_handshake_timeout_of_zero_fails_what_has_to_wait on OneThread;
        a_panic_in_a_dialled_handshake_fails_the_dial on TwoWorkers;
        a_panic_in_an_accepted_handshake_ends_that_setup on TwoWorkers;
        handshakes_exchange_bytes_before_messages on TwoWorkers;
        bytes_behind_the_handshake_reach_the_reader on TwoWorkers;
        a_handshake_knows_its_connection on TwoWorkers;
        a_late_handshake_spares_live_connections on OneThread;
        a_handshake_runs_even_if_the_peer_is_gone on OneThread;
    }
    streams {
        a_taken_stream_can_be_returned on TwoWorkers;
        a_wrapped_stream_can_be_returned on TwoWorkers;
        reading_needs_the_taken_stream_back on OneThread;
        writing_needs_the_taken_stream_back on OneThread;
        without_reading_and_writing_the_stream_may_be_kept on OneThread;
        borrowing_a_taken_stream_panics on TwoWorkers;
        taking_a_stream_twice_panics on OneThread;
        a_handshake_finds_default_socket_options on OneThread;
    }
    reading {
        messages_are_processed_in_order on TwoWorkers;
        frames_may_come_byte_by_byte on OneThread;
        frames_may_exceed_the_buffer on TwoWorkers;
        the_buffer_size_may_be_zero on OneThread;
        a_decode_error_ends_the_connection on OneThread;
        a_decoder_panic_ends_the_connection on TwoWorkers;
        nothing_behind_a_decode_error_is_processed on OneThread;
        messages_before_a_decode_error on OneThread;
        a_peer_that_closes_ends_the_connection on OneThread;
        a_peer_that_closes_within_a_frame_ends_the_connection on OneThread;
        a_peer_that_resets_ends_the_connection on OneThread;
        messages_before_the_end_of_the_stream on OneThread;
        slow_messages_before_the_end_of_the_stream on OneThread,
            differs: "promised: at EOF the connection stays live while what was decoded is processed",
            ours: [r#"log: ["read codec", "got 0", "got 1", "got 2", "got 3", "got 4", "on_disconnect Reading"]"#],
            published: [r#"log: ["read codec", "on_disconnect Reading"]"#];
        a_half_closed_peer on OneThread,
            differs: "promised: at EOF the connection stays live and writable while what was decoded is processed",
            ours: [r#"replies: ["one", "two"]"#, "end: Ok(())", r#"origin: ["Reading"]"#],
            published: ["replies: []", "end: Ok(())", r#"origin: ["Reading"]"#];
        an_idle_peer_is_disconnected on TwoWorkers;
        an_idle_timeout_of_zero_is_none on OneThread;
        complete_messages_keep_a_connection_alive on OneThread;
        parts_of_a_message_do_not_keep_it_alive on OneThread;
        a_panic_in_process_message_ends_the_connection on TwoWorkers;
        messages_name_their_source on TwoWorkers;
    }
    queueing {
        messages_are_processed_one_at_a_time on TwoWorkers;
        a_full_queue_stops_the_decoding on TwoWorkers,
            differs: "promised: while one message is in flight, up to the queue depth more are decoded",
            ours: ["received while blocked: (4, 20)", "all came, in order: true"],
            published: ["received while blocked: (5, 25)", "all came, in order: true"];
        without_backpressure_the_surplus_is_dropped on TwoWorkers;
        without_backpressure_a_burst_from_idle_is_cut on OneThread;
        slow_processing_is_not_idleness on TwoWorkers;
    }
    codecs {
        a_decoder_is_called_as_under_framed_read on OneThread;
        a_decoder_with_leftovers_at_the_end on OneThread;
        a_decoder_may_make_frames_of_the_rest on OneThread;
        a_decoder_that_never_got_bytes on OneThread;
        a_decoder_may_replace_the_buffer on OneThread;
        a_decoder_may_return_frames_without_consuming on OneThread,
            differs: "promised: the counters include each message before its process_message is first polled",
            ours: [
                "calls before there are bytes: 0",
                r#"calls: [" 2", " 2", " 1", " 1", " 0", " 1", " 1", " 0", "_eof 0"]"#,
                r#"got: ["x", "x", "y", "y", "z", "z"]"#, r#"origin: ["Reading"]"#, "received: (6, 3)",
            ],
            published: [
                "calls before there are bytes: 0",
                r#"calls: [" 2", " 2", " 1", " 1", " 0", " 1", " 1", " 0", "_eof 0"]"#,
                r#"got: ["x", "x", "y", "y", "z", "z"]"#, r#"origin: ["Reading"]"#, "received: (3, 3)",
            ];
        an_encoder_keeps_its_state_per_connection on OneThread;
    }
    writing {
        sends_without_writing_are_unsupported on OneThread;
        sends_to_strangers_are_not_connected on OneThread;
        sends_of_another_type_are_unsupported on OneThread;
        sends_after_the_shutdown_are_not_connected on OneThread;
        a_burst_is_accepted_up_to_the_depth on OneThread;
        a_burst_with_receipts_is_accepted_up_to_the_depth on OneThread;
        a_burst_is_accepted_up_to_the_default_depth on OneThread;
        a_queue_of_one_accepts_one on OneThread;
        a_broadcast_reaches_everybody_with_room on OneThread;
        messages_leave_in_order on TwoWorkers;
        messages_may_exceed_the_buffer on TwoWorkers;
        the_write_buffer_size_may_be_zero on OneThread;
        an_encoder_may_produce_nothing on OneThread;
        an_encoder_error_ends_the_connection on OneThread;
        an_encoder_panic_ends_the_connection on TwoWorkers;
        a_peer_that_does_not_read_is_disconnected on TwoWorkers;
        a_write_timeout_of_zero_fails_what_has_to_wait on OneThread;
        a_stalled_peer_ends_in_a_full_queue on OneThread;
        a_reset_is_noticed_by_writing on TwoWorkers;
        handles_of_one_node_share_its_writing on TwoWorkers;
    }
    receipts {
        a_receipt_resolves_after_the_counters on OneThread;
        a_dropped_receipt_changes_nothing on TwoWorkers;
        an_encoder_error_fails_its_batch on OneThread;
        an_encoder_panic_fails_its_batch on OneThread,
            differs: "promised: a receipt of a batch that failed, by a panic too, resolves to an error",
            ours: [
                r#"poison: "Other""#, r#"before it: "Other""#, r#"after it: "Other""#, "the peer got: []",
                "sent: (0, 0)", r#"origin: ["Writing"]"#,
            ],
            published: [
                r#"poison: "gone""#, r#"before it: "gone""#, r#"after it: "gone""#, "the peer got: []",
                "sent: (0, 0)", r#"origin: ["Writing"]"#,
            ];
        messages_queued_before_a_disconnect on OneThread;
        messages_queued_before_a_shutdown on OneThread;
        messages_queued_before_a_disconnect_without_hooks on OneThread,
            differs: "promised: disconnect flushes what was queued at that moment",
            ours: [
                "disconnect: true", r#"outcomes: ["ok"]"#,
                r#"the peer got: ["0000", "0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"]"#,
                "end: Ok(())",
            ],
            published: ["disconnect: true", r#"outcomes: ["gone"]"#, "the peer got: []", "end: Ok(())"];
        messages_queued_before_a_shutdown_without_hooks on OneThread,
            differs: "promised: shut_down flushes what was queued at that moment",
            ours: [
                r#"outcomes: ["ok"]"#,
                r#"the peer got: ["0000", "0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"]"#,
                "end: Ok(())",
            ],
            published: [r#"outcomes: ["gone"]"#, "the peer got: []", "end: Ok(())"];
        a_disconnect_from_a_stalled_peer_loses_the_queue on OneThread;
        a_flush_timeout_fails_its_batch on TwoWorkers;
        what_waits_behind_a_failed_batch_is_gone on OneThread;
        receipts_of_a_connection_that_ends_by_reading on OneThread;
    }
    last_words {
        each_of_many_pipelined_requests_is_answered on OneThread;
        each_of_many_pipelined_requests_is_answered_before_the_peer_closes on OneThread;
        an_answer_is_read_behind_an_upload_that_goes_on on TwoWorkers,
            differs: "promised: a graceful end discards input until the peer closes, so that a reset does not overtake the flush",
            ours: ["receipt: true", "disconnect: true", "the answer is whole: true"],
            published: ["receipt: true", "disconnect: true", "the answer is whole: false"];
        what_was_sent_before_a_reset_is_processed_after_a_write_has_failed on OneThread,
            differs: "promised: after a failed write the reader finishes what the peer has sent, for up to 3 s",
            ours: ["on_disconnect: 1", "all were processed: true"],
            published: ["on_disconnect: 1", "all were processed: false"];
        requests_before_a_close_are_processed on OneThread,
            differs: "promised: what was decoded before the end of the stream is processed, for up to 3 s",
            ours: ["all were processed: true", "on_disconnect: 1"],
            published: ["all were processed: false", "on_disconnect: 1"];
        requests_before_a_close_are_processed_although_they_are_answered on OneThread,
            differs: "promised: after a failed write the reader finishes what the peer has sent, for up to 3 s",
            ours: ["all were processed: true", "on_disconnect: 1"],
            published: ["all were processed: false", "on_disconnect: 1"];
    }
    hooks {
        hooks_run_in_order on OneThread;
        codecs_get_the_side_of_the_node on OneThread;
        a_panic_in_a_read_codec_fails_the_dial on OneThread;
        a_panic_in_a_write_codec_fails_the_dial on OneThread;
        a_panic_in_a_read_codec_ends_an_accepted_setup on OneThread;
        a_panic_in_a_write_codec_ends_an_accepted_setup on OneThread;
        connect_does_not_wait_for_on_connect on TwoWorkers;
        on_connect_can_send on TwoWorkers;
        an_abortable_on_connect_ends_with_the_connection on OneThread;
        an_unabortable_on_connect_runs_to_its_end on OneThread;
        a_shutdown_ends_an_abortable_on_connect on OneThread;
        a_shutdown_spares_an_unabortable_on_connect on OneThread;
        an_unabortable_on_connect_is_never_skipped on TwoWorkers;
        a_panic_in_on_connect_ends_the_connection on TwoWorkers;
        a_panic_in_an_unabortable_on_connect_ends_the_connection on OneThread;
        hooks_may_use_the_node on TwoWorkers;
        late_hooks_meet_existing_connections on OneThread;
        late_reading_and_writing_spare_existing_connections on OneThread;
    }
    on_disconnect {
        on_disconnect_sees_a_live_connection on TwoWorkers;
        a_message_queued_by_on_disconnect on OneThread;
        a_message_queued_by_on_disconnect_at_shutdown on OneThread;
        on_disconnect_cannot_send_when_the_writer_failed on OneThread;
        a_hanging_on_disconnect_is_cut_off on TwoWorkers;
        an_on_disconnect_without_time_is_cut_off_at_once on OneThread;
        a_panic_in_on_disconnect_is_contained on TwoWorkers;
    }
    disconnecting {
        only_the_first_disconnect_is_one on TwoWorkers;
        of_concurrent_disconnects_one_wins on TwoWorkers;
        a_losing_disconnect_does_not_wait on OneThread;
        a_peer_can_be_dialled_again_and_again on TwoWorkers;
        stats_outlive_connections on TwoWorkers;
        process_message_may_disconnect_its_peer on OneThread;
        on_connect_may_disconnect_its_peer on OneThread;
        a_handshake_cannot_disconnect_its_peer on OneThread;
        unread_input_does_not_reset_the_farewell on OneThread;
        a_dropped_disconnect_is_finished_anyway on TwoWorkers;
        a_dropped_disconnect_cuts_the_hook_short on TwoWorkers;
        a_disconnect_is_seen_by_the_other_node on TwoWorkers;
    }
    runtimes {
        a_reader_goes_with_its_runtime on TwoWorkers;
        a_writer_goes_with_its_runtime on TwoWorkers,
            differs: "promised: a task that its runtime drops ends its connection",
            ours: ["gone: true", "hooks: 1", r#"a send: "NotConnected""#, r#"a dial: "ok""#, "connected: 0"],
            published: ["gone: false", "hooks: 0", r#"a send: "ok""#, r#"a dial: "AlreadyExists""#, "connected: 0"];
        a_thread_without_a_runtime_may_disconnect on TwoWorkers;
    }
    isolation {
        a_node_can_be_made_outside_of_a_runtime on OneThread;
        messages_can_be_sent_from_outside_of_a_runtime on TwoWorkers;
        protocols_can_be_enabled_from_a_task on TwoWorkers;
        the_types_are_send_and_sync on OneThread;
        a_silent_dialler_does_not_hold_up_others on TwoWorkers;
        the_dial_timeout_does_not_cover_the_handshake on OneThread;
        timeouts_may_be_endless on TwoWorkers;
        a_slow_peer_does_not_hold_up_others on TwoWorkers;
        a_stalled_peer_does_not_hold_up_others on TwoWorkers;
        a_slow_on_connect_does_not_hold_up_reading on OneThread;
        a_disconnect_cuts_process_message_short on TwoWorkers;
        messages_are_processed_while_on_disconnect_runs on OneThread;
        a_peer_that_leaves_during_on_disconnect_changes_nothing on OneThread;
    }
    cancelling {
        an_unpolled_dial_does_nothing on OneThread;
        a_dropped_dial_is_rolled_back_or_live on TwoWorkers;
        a_dial_dropped_in_its_handshake_is_rolled_back on TwoWorkers;
        a_dial_dropped_during_the_tcp_stage_is_rolled_back on TwoWorkers;
        a_live_connection_survives_the_task_that_dialled on TwoWorkers;
        an_aborted_dialling_task_leaves_nothing on TwoWorkers;
    }
    shutdown {
        a_shutdown_ends_everything on TwoWorkers;
        a_shutdown_has_closed_the_listener on OneThread,
            differs: "promised: when shut_down has returned, a dial is refused and the port can be bound",
            ours: ["the port can be bound: true", r#"a dial: "ConnectionRefused (os error 111)""#],
            published: ["the port can be bound: false", r#"a dial: "ConnectionReset (os error 104)""#];
        nothing_works_after_a_shutdown on TwoWorkers;
        without_a_listener_the_toggle_is_refused_after_a_shutdown on OneThread;
        the_own_address_is_refused_after_a_shutdown on OneThread;
        protocols_cannot_be_enabled_after_a_shutdown on OneThread;
        protocols_enabled_before_a_shutdown_and_again_after_it on OneThread,
            differs: "promised: enable_* is a no-op when shutting down",
            ours: ["panicked: false", "panicked: false", "panicked: false", "panicked: false", "panicked: false"],
            published: ["panicked: true", "panicked: true", "panicked: true", "panicked: true", "panicked: true"];
        a_shutdown_can_be_repeated on TwoWorkers;
        an_idle_node_can_be_shut_down on OneThread;
        concurrent_shutdowns_wait_for_the_same_end on TwoWorkers;
        connections_end_side_by_side on TwoWorkers;
        a_disconnect_in_progress_keeps_its_origin on OneThread;
        a_pending_dial_is_told_of_the_shutdown on OneThread,
            differs: "promised: a shutdown voids every reservation at once, so the counts go to 0",
            ours: [
                "counts: (0, 0)", r#"connect: "shutting down (Other)""#, "hooks: (0, 0)",
                "the handshake is gone: 1", "connected: 0",
            ],
            published: [
                "counts: (0, 1)", r#"connect: "shutting down (Other)""#, "hooks: (0, 0)",
                "the handshake is gone: 1", "connected: 0",
            ];
        a_pending_accept_ends_with_the_shutdown on TwoWorkers;
        a_hanging_hook_does_not_hold_the_shutdown on TwoWorkers;
        a_dropped_shutdown_can_be_finished on TwoWorkers;
        a_node_lives_on_without_handles_until_shut_down on TwoWorkers;
    }
    closing {
        a_handshake_may_shut_the_node_down on TwoWorkers;
        process_message_may_shut_the_node_down on TwoWorkers;
        on_connect_may_shut_the_node_down on TwoWorkers;
        on_disconnect_may_shut_the_node_down on TwoWorkers;
    }
    topologies {
        expected_connections_are_the_same on OneThread;
        expected_connections_of_none_and_one on OneThread;
        too_few_nodes_are_an_invalid_input on OneThread;
        impossible_topologies_are_an_invalid_input on OneThread;
        a_line_has_these_edges on TwoWorkers;
        a_ring_has_these_edges on TwoWorkers;
        a_mesh_has_these_edges on TwoWorkers;
        a_star_has_these_edges on TwoWorkers;
        a_grid_has_these_edges on TwoWorkers;
        a_tree_has_these_edges on TwoWorkers;
        two_nodes_fit_every_topology on TwoWorkers;
        random_nodes_dial_as_many_as_their_degree on TwoWorkers;
        a_node_that_does_not_listen_fails_the_topology on OneThread;
        connecting_the_same_nodes_twice_fails on TwoWorkers;
    }
    misuse {
        a_protocol_enabled_twice_panics on OneThread;
        a_read_queue_of_zero_panics on OneThread;
        a_write_queue_of_zero_panics on OneThread;
        a_protocol_may_be_enabled_after_one_that_panicked on OneThread;
        protocols_may_belong_to_different_types on TwoWorkers;
        a_handshake_may_not_return_another_connection on OneThread,
            differs: "promised: returning another Connection than the one received fails the setup",
            ours: [
                r#"first: "PermissionDenied""#, r#"second: "Other""#, "connected: (false, false)",
                r#"log: ["returned the other one"]"#,
            ],
            published: [
                r#"first: "PermissionDenied""#, r#"second: "ok""#, "connected: (true, false)",
                r#"log: ["returned the other one"]"#,
            ];
        unknown_addresses_are_harmless on OneThread;
    }
    undriven {
        a_listener_can_be_switched_off on OneThread,
            differs: "promised: when switching off has returned, a dial is refused; whoever asks closes the socket",
            ours: ["off: None", r#"listening_addr: "AddrNotAvailable""#, r#"a dial: "ConnectionRefused (os error 111)""#],
            published: ["off: None", r#"listening_addr: "AddrNotAvailable""#, r#"a dial: "ok""#];
        a_shutdown_ends on OneThread,
            differs: "promised: when shut_down has returned, a dial is refused; whoever asks closes the socket",
            ours: [r#"a dial: "ConnectionRefused (os error 111)""#],
            published: [r#"a dial: "ok""#];
    }
}
