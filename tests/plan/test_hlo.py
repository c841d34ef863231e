"""The reader of compiled programs, on texts whose costs can be counted by hand."""

from __future__ import annotations

import pytest

from o1coder_jax.errors import UserError
from train.plan.hlo import parse_hlo, trip_count
from train.plan.hlo_costs import Collective, count_costs, group_size

# Ten rounds of: a product 8 x 16 x 32 in a fusion, its sum over four devices, a slice of a stack.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,32]{1,0}}

%fused_product (p0: f32[8,16], p1: f32[10,16,32], p2: s32[]) -> f32[8,32] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[10,16,32]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,16,32]{2,1,0} dynamic-slice(%p1, %p2, %zero, %zero), dynamic_slice_sizes={1,16,32}
  %weight = f32[16,32]{1,0} bitcast(%slice)
  ROOT %dot.1 = f32[8,32]{1,0} dot(%p0, %weight), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[8,16], f32[10,16,32], /*index=3*/f32[8,32])) -> (s32[], f32[8,16], f32[10,16,32], f32[8,32]) {
  %state = (s32[], f32[8,16]{1,0}, f32[10,16,32]{2,1,0}, /*index=3*/f32[8,32]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x.1 = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %stack = f32[10,16,32]{2,1,0} get-tuple-element(%state), index=2
  %product = f32[8,32]{1,0} fusion(%x.1, %stack, %i), kind=kOutput, calls=%fused_product
  %total = f32[8,32]{1,0} all-reduce(%product), channel_id=1, replica_groups=[4,4]<=[16], to_apply=%add
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,16]{1,0}, f32[10,16,32]{2,1,0}, f32[8,32]{1,0}) tuple(%next, %x.1, %stack, %total)
}

%condition (state.1: (s32[], f32[8,16], f32[10,16,32], f32[8,32])) -> pred[] {
  %state.1 = (s32[], f32[8,16]{1,0}, f32[10,16,32]{2,1,0}, f32[8,32]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.2: f32[8,16], w: f32[10,16,32]) -> f32[8,32] {
  %x.2 = f32[8,16]{1,0} parameter(0)
  %w = f32[10,16,32]{2,1,0} parameter(1)
  %start = s32[] constant(2)
  %empty = f32[] constant(0)
  %zeros = f32[8,32]{1,0} broadcast(%empty), dimensions={}
  %init = (s32[], f32[8,16]{1,0}, f32[10,16,32]{2,1,0}, f32[8,32]{1,0}) tuple(%start, %x.2, %w, %zeros)
  %loop = (s32[], f32[8,16]{1,0}, f32[10,16,32]{2,1,0}, f32[8,32]{1,0}) while(%init), condition=%condition, body=%body
  ROOT %result = f32[8,32]{1,0} get-tuple-element(%loop), index=3
}
"""


def test_loop_counts_what_its_body_does_every_time():
    costs = count_costs(parse_hlo(PROGRAM), devices=16)
    assert costs.flops == 10 * 2 * 8 * 16 * 32
    assert costs.collectives == {Collective("all-reduce", 4.0 * 8 * 32, 4): 10}
    assert costs.unknown_loops == 0


def test_slice_of_a_stack_reads_the_slice_alone():
    costs = count_costs(parse_hlo(PROGRAM), devices=16)
    fusion = 8 * 16 + 16 * 32 + 8 * 32
    fusion += 1  # the counter
    reduce, counter, zeros = 2 * 8 * 32, 3, 1 + 8 * 32
    assert costs.bytes == 4 * (10 * (fusion + reduce + counter) + zeros)


def test_compilers_note_of_a_trip_count_comes_first():
    noted = PROGRAM.replace("body=%body\n", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}\n')
    assert noted != PROGRAM
    module = parse_hlo(noted)
    entry = module.computations[module.entry]
    assert trip_count(module, entry.instructions["loop"], entry) == 7


def test_loop_of_unknown_length_is_told():
    unknown = PROGRAM.replace("%limit = s32[] constant(12)", "%limit = s32[] negate(%i.1)")
    costs = count_costs(parse_hlo(unknown), devices=16)
    assert (costs.unknown_loops, costs.flops) == (1, 2 * 8 * 16 * 32)


def test_buffers_on_the_chip_are_no_traffic():
    on_chip = PROGRAM.replace("f32[8,32]{1,0}", "f32[8,32]{1,0:T(8,128)S(1)}")
    less = count_costs(parse_hlo(PROGRAM), 16).bytes - count_costs(parse_hlo(on_chip), 16).bytes
    assert less == 4 * (10 * 3 * 8 * 32 + 8 * 32)


def convolution(window: str, labels: str, left: str, right: str, result: str) -> float:
    text = f"""\
HloModule m

ENTRY %main (a: {left}, b: {right}) -> {result} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {result} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    return count_costs(parse_hlo(text), 1).flops


def test_convolution_is_a_product():
    assert convolution("", "bf_io->bf", "f32[8,16]", "f32[16,32]", "f32[8,32]") == 2 * 8 * 16 * 32


def test_padded_convolution_counts_what_meets():
    # A head axis of one against two: each of the two results meets one place of the window.
    window = "size=1x2 pad=0_0x1_1 rhs_reversal=0x1"
    flops = convolution(window, "0bf1_1oi0->0b1f", "f32[16,64,32,1]", "f32[2,48,32,1]", "f32[16,64,2,48]")
    assert flops == 2 * (16 * 64) * 32 * (2 * 48)


def test_dilated_convolution_counts_the_batch_once():
    # Four independent products of 64 x 32 x 48, their batch written as a dilated axis.
    window = "size=4 stride=3 pad=0_0 lhs_dilate=4 rhs_reversal=1"
    flops = convolution(window, "0bf_0io->0bf", "f32[4,64,32]", "f32[4,32,48]", "f32[4,64,48]")
    assert flops == 4 * 2 * 64 * 32 * 48


@pytest.mark.parametrize(
    "written, size",
    [
        ("replica_groups={{0,4,8,12},{1,5,9,13}}", 4),
        ("replica_groups=[8,2]<=[16]", 2),
        ("replica_groups=[4,4]<=[4,4]T(1,0)", 4),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2,'axis_2'=2] {'axis_0','axis_2'}", 8),
        ("replica_groups={}", 16),
    ],
)
def test_group_sizes(written: str, size: int):
    assert group_size(f"channel_id=1, {written}, dimensions={{0}}", 16) == size


def test_bytes_sent_are_those_of_a_ring():
    assert Collective("all-gather", 16.0, 4).sent == 12
    assert Collective("reduce-scatter", 16.0, 4).sent == 12
    assert Collective("all-reduce", 16.0, 4).sent == 24
    assert Collective("collective-permute", 16.0, 2).sent == 16


def test_text_without_a_program_is_refused():
    with pytest.raises(UserError, match="no entry computation"):
        parse_hlo("HloModule nothing\n")


KERNELS = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (table: s8[1,4,4], q: bf16[2,7,2048,128], k: bf16[2,1,2048,128]) -> bf16[2,7,2048,128] {
  %table = s8[1,4,4]{2,1,0} parameter(0)
  %q = bf16[2,7,2048,128]{3,2,1,0} parameter(1)
  %k = bf16[2,1,2048,128]{3,2,1,0} parameter(2)
  %splash_mha_fwd.1 = bf16[2,7,2048,128] custom-call(%table, %table, %q, %k), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha_fwd"}
  ROOT %splash_mha_dq.1 = bf16[2,7,2048,128] custom-call(%table, %table, %q, %k), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}
}
"""


def test_kernels_described_over_several_lines_count_the_blocks_that_a_causal_mask_leaves():
    costs = count_costs(parse_hlo(KERNELS), 1)
    assert costs.flops == (2 + 3) * 2 * 2 * 7 * 128 * (1 + 2 + 3 + 4) * 512**2
