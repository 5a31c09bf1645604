; ModuleID = "tiny"
target triple = "x86_64-unknown-linux-gnu"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

define internal void @"k0_mat_mul_add_bias_relu"(ptr %".1", ptr %".2", ptr %".3", ptr %".4", i64 %".5", i64 %".6", ptr %".7") nounwind
{
.9:
  %".10" = alloca [16 x float], align 64
  %".13" = icmp slt i64 %".5", %".6"
  br i1 %".13", label %".11", label %".12"
.11:
  %".15" = phi  i64 [%".5", %".9"], [%".96", %".84"]
  %".16" = mul i64 0, 4
  %".17" = mul i64 %".16", 3
  %".18" = getelementptr float, ptr %".2", i64 %".17"
  br label %".19"
.12:
  ret void
.19:
  %".21" = getelementptr float, ptr %".18", i64 0
  %".22" = mul i64 0, 4
  %".23" = getelementptr float, ptr %".10", i64 %".22"
  %".24" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".21", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".25" = getelementptr float, ptr %".21", i64 3
  %".26" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".25", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".27" = getelementptr float, ptr %".21", i64 6
  %".28" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".27", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".29" = getelementptr float, ptr %".21", i64 9
  %".30" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".29", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".31" = shufflevector <4 x float> %".24", <4 x float> %".26", <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %".32" = shufflevector <4 x float> %".24", <4 x float> %".26", <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %".33" = shufflevector <4 x float> %".28", <4 x float> %".30", <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %".34" = shufflevector <4 x float> %".28", <4 x float> %".30", <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %".35" = shufflevector <4 x float> %".31", <4 x float> %".33", <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %".36" = shufflevector <4 x float> %".31", <4 x float> %".33", <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  %".37" = shufflevector <4 x float> %".32", <4 x float> %".34", <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %".38" = shufflevector <4 x float> %".32", <4 x float> %".34", <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  store <4 x float> %".35", ptr %".23", align 4
  %".40" = getelementptr float, ptr %".23", i64 4
  store <4 x float> %".37", ptr %".40", align 4
  %".42" = getelementptr float, ptr %".23", i64 8
  store <4 x float> %".36", ptr %".42", align 4
  %".44" = getelementptr float, ptr %".23", i64 12
  store <4 x float> %".38", ptr %".44", align 4
  %".46" = mul i64 0, 3
  %".47" = getelementptr float, ptr %".1", i64 %".46"
  br label %".48"
.48:
  %".51" = phi  i64 [0, %".19"], [%".67", %".48"]
  %".52" = phi  <4 x float> [splat (float              0x0), %".19"], [%".61", %".48"]
  %".53" = phi  <4 x float> [splat (float              0x0), %".19"], [%".66", %".48"]
  %".54" = getelementptr float, ptr %".47", i64 %".51"
  %".55" = mul i64 %".51", 4
  %".56" = getelementptr float, ptr %".10", i64 %".55"
  %".57" = load <4 x float>, ptr %".56", align 4
  %".58" = load float, ptr %".54", align 4
  %".59" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".58", i32 0
  %".60" = shufflevector <4 x float> %".59", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".61" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".60", <4 x float> %".57", <4 x float> %".52")
  %".62" = getelementptr float, ptr %".54", i64 3
  %".63" = load float, ptr %".62", align 4
  %".64" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".63", i32 0
  %".65" = shufflevector <4 x float> %".64", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".66" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".65", <4 x float> %".57", <4 x float> %".53")
  %".67" = add i64 %".51", 1
  %".68" = icmp slt i64 %".67", 3
  br i1 %".68", label %".48", label %".49"
.49:
  %".70" = add i64 0, 0
  br label %".71"
.71:
  %".73" = add i64 %".16", 0
  %".74" = getelementptr float, ptr %".3", i64 %".73"
  %".75" = load <4 x float>, ptr %".74", align 4
  %".76" = fadd <4 x float> %".61", %".75"
  %".77" = fcmp olt <4 x float> %".76", splat (float              0x0)
  %".78" = select  <4 x i1> %".77", <4 x float> splat (float              0x0), <4 x float> %".76"
  %".79" = mul i64 %".70", 4
  %".80" = getelementptr float, ptr %".4", i64 %".79"
  %".81" = getelementptr float, ptr %".80", i64 %".73"
  store <4 x float> %".78", ptr %".81", align 4
  %".83" = add i64 0, 1
  br label %".84"
.84:
  %".86" = add i64 %".16", 0
  %".87" = getelementptr float, ptr %".3", i64 %".86"
  %".88" = load <4 x float>, ptr %".87", align 4
  %".89" = fadd <4 x float> %".66", %".88"
  %".90" = fcmp olt <4 x float> %".89", splat (float              0x0)
  %".91" = select  <4 x i1> %".90", <4 x float> splat (float              0x0), <4 x float> %".89"
  %".92" = mul i64 %".83", 4
  %".93" = getelementptr float, ptr %".4", i64 %".92"
  %".94" = getelementptr float, ptr %".93", i64 %".86"
  store <4 x float> %".91", ptr %".94", align 4
  %".96" = add i64 %".15", 1
  %".97" = icmp slt i64 %".96", %".6"
  br i1 %".97", label %".11", label %".12"
}

declare <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".1", i32 %".2", <4 x i1> %".3", <4 x float> %".4")

declare <4 x float> @"llvm.fma.v4f32"(<4 x float> %".1", <4 x float> %".2", <4 x float> %".3")

define internal void @"k1_softmax_log_loss"(ptr %".1", ptr %".2", ptr %".3", i64 %".4", i64 %".5", ptr %".6") nounwind
{
.8:
  %".11" = icmp slt i64 %".4", %".5"
  br i1 %".11", label %".9", label %".10"
.9:
  %".13" = phi  i64 [%".4", %".8"], [%".187", %".54"]
  %".14" = getelementptr float, ptr %".2", i64 %".13"
  %".15" = load float, ptr %".14", align 4
  %".16" = call i64 @"llvm.fptosi.sat.i64.f32"(float %".15")
  %".17" = icmp sle i64 0, %".16"
  %".18" = icmp slt i64 %".16", 4
  %".19" = and i1 %".17", %".18"
  %".20" = xor i1 %".19", 1
  br i1 %".20", label %".21", label %".22"
.10:
  ret void
.21:
  %".24" = getelementptr i64, ptr %".6", i64 1
  store i64 %".16", ptr %".24", align 8
  store i64 1, ptr %".6", align 8
  br label %".22"
.22:
  %".28" = icmp slt i64 %".16", 0
  %".29" = select  i1 %".28", i64 0, i64 %".16"
  %".30" = icmp sgt i64 %".29", 3
  %".31" = select  i1 %".30", i64 3, i64 %".29"
  %".34" = mul i64 %".13", 4
  %".35" = getelementptr float, ptr %".1", i64 %".34"
  br label %".32"
.32:
  %".36" = getelementptr float, ptr %".35", i64 0
  %".37" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".36", i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float              0x0))
  %".38" = fcmp ogt <8 x float> %".37", splat (float 0xfff0000000000000)
  %".39" = select  <8 x i1> %".38", <8 x float> %".37", <8 x float> splat (float 0xfff0000000000000)
  %".40" = select  <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %".39", <8 x float> splat (float 0xfff0000000000000)
  %".41" = shufflevector <8 x float> %".40", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %".42" = shufflevector <8 x float> %".40", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %".43" = fcmp ogt <4 x float> %".42", %".41"
  %".44" = select  <4 x i1> %".43", <4 x float> %".42", <4 x float> %".41"
  %".45" = shufflevector <4 x float> %".44", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 0, i32 1>
  %".46" = shufflevector <4 x float> %".44", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 2, i32 3>
  %".47" = fcmp ogt <2 x float> %".46", %".45"
  %".48" = select  <2 x i1> %".47", <2 x float> %".46", <2 x float> %".45"
  %".49" = shufflevector <2 x float> %".48", <2 x float> <float undef, float undef>, <1 x i32> <i32 0>
  %".50" = shufflevector <2 x float> %".48", <2 x float> <float undef, float undef>, <1 x i32> <i32 1>
  %".51" = fcmp ogt <1 x float> %".50", %".49"
  %".52" = select  <1 x i1> %".51", <1 x float> %".50", <1 x float> %".49"
  %".53" = extractelement <1 x float> %".52", i32 0
  %".64" = insertelement <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, float %".53", i32 0
  %".65" = shufflevector <8 x float> %".64", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <8 x i32> zeroinitializer
  br label %".54"
.54:
  %".56" = add i64 0, 0
  %".57" = sub i64 %".31", %".56"
  %".58" = trunc i64 %".57" to i32
  %".59" = insertelement <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, i32 %".58", i32 0
  %".60" = shufflevector <8 x i32> %".59", <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, <8 x i32> zeroinitializer
  %".61" = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %".60"
  %".62" = getelementptr float, ptr %".35", i64 0
  %".63" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".62", i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float              0x0))
  %".66" = fsub <8 x float> %".63", %".65"
  %".67" = fcmp olt <8 x float> %".66", splat (float 0xc05a000000000000)
  %".68" = select  <8 x i1> %".67", <8 x float> splat (float 0xc05a000000000000), <8 x float> %".66"
  %".69" = fmul <8 x float> %".68", splat (float 0x3ff7154760000000)
  %".70" = fadd <8 x float> %".69", splat (float 0x4168000000000000)
  %".71" = fsub <8 x float> %".70", splat (float 0x4168000000000000)
  %".72" = bitcast <8 x float> %".70" to <8 x i32>
  %".73" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".71", <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %".68")
  %".74" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".71", <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %".73")
  %".75" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %".74", <8 x float> splat (float 0x3f8122c520000000))
  %".76" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".75", <8 x float> %".74", <8 x float> splat (float 0x3fa5555380000000))
  %".77" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".76", <8 x float> %".74", <8 x float> splat (float 0x3fc5554aa0000000))
  %".78" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".77", <8 x float> %".74", <8 x float> splat (float 0x3fe0000000000000))
  %".79" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".78", <8 x float> %".74", <8 x float> splat (float 0x3ff0000000000000))
  %".80" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".79", <8 x float> %".74", <8 x float> splat (float 0x3ff0000000000000))
  %".81" = sub <8 x i32> %".72", splat (i32 1262485250)
  %".82" = lshr <8 x i32> %".81", splat (i32 1)
  %".83" = sub <8 x i32> %".81", %".82"
  %".84" = shl <8 x i32> %".82", splat (i32 23)
  %".85" = bitcast <8 x i32> %".84" to <8 x float>
  %".86" = fmul <8 x float> %".80", %".85"
  %".87" = shl <8 x i32> %".83", splat (i32 23)
  %".88" = bitcast <8 x i32> %".87" to <8 x float>
  %".89" = fmul <8 x float> %".86", %".88"
  %".90" = select  <8 x i1> %".61", <8 x float> splat (float              0x0), <8 x float> %".89"
  %".91" = fadd <8 x float> splat (float              0x0), %".90"
  %".92" = select  <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %".91", <8 x float> splat (float              0x0)
  %".93" = shufflevector <8 x float> %".92", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %".94" = shufflevector <8 x float> %".92", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %".95" = fadd <4 x float> %".93", %".94"
  %".96" = shufflevector <4 x float> %".95", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 0, i32 1>
  %".97" = shufflevector <4 x float> %".95", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 2, i32 3>
  %".98" = fadd <2 x float> %".96", %".97"
  %".99" = shufflevector <2 x float> %".98", <2 x float> <float undef, float undef>, <1 x i32> <i32 0>
  %".100" = shufflevector <2 x float> %".98", <2 x float> <float undef, float undef>, <1 x i32> <i32 1>
  %".101" = fadd <1 x float> %".99", %".100"
  %".102" = extractelement <1 x float> %".101", i32 0
  %".103" = getelementptr float, ptr %".35", i64 %".31"
  %".104" = load float, ptr %".103", align 4
  %".105" = fsub float %".104", %".53"
  %".106" = fcmp ogt float %".105", 0x4056400000000000
  %".107" = select  i1 %".106", float 0x4056400000000000, float %".105"
  %".108" = fcmp olt float %".107", 0xc05a000000000000
  %".109" = select  i1 %".108", float 0xc05a000000000000, float %".107"
  %".110" = fmul float %".109", 0x3ff7154760000000
  %".111" = fadd float %".110", 0x4168000000000000
  %".112" = fsub float %".111", 0x4168000000000000
  %".113" = bitcast float %".111" to i32
  %".114" = call float @"llvm.fma.f32"(float %".112", float 0xbfe62e4000000000, float %".109")
  %".115" = call float @"llvm.fma.f32"(float %".112", float 0xbeb7f7d1c0000000, float %".114")
  %".116" = call float @"llvm.fma.f32"(float 0x3f56cd7980000000, float %".115", float 0x3f8122c520000000)
  %".117" = call float @"llvm.fma.f32"(float %".116", float %".115", float 0x3fa5555380000000)
  %".118" = call float @"llvm.fma.f32"(float %".117", float %".115", float 0x3fc5554aa0000000)
  %".119" = call float @"llvm.fma.f32"(float %".118", float %".115", float 0x3fe0000000000000)
  %".120" = call float @"llvm.fma.f32"(float %".119", float %".115", float 0x3ff0000000000000)
  %".121" = call float @"llvm.fma.f32"(float %".120", float %".115", float 0x3ff0000000000000)
  %".122" = sub i32 %".113", 1262485250
  %".123" = lshr i32 %".122", 1
  %".124" = sub i32 %".122", %".123"
  %".125" = shl i32 %".123", 23
  %".126" = bitcast i32 %".125" to float
  %".127" = fmul float %".121", %".126"
  %".128" = shl i32 %".124", 23
  %".129" = bitcast i32 %".128" to float
  %".130" = fmul float %".127", %".129"
  %".131" = getelementptr float, ptr %".3", i64 %".13"
  %".132" = fsub float %".53", %".104"
  %".133" = fsub float %".130", 0x3ff0000000000000
  %".134" = fadd float %".102", %".133"
  %".135" = fadd float 0x3ff0000000000000, %".134"
  %".136" = fsub float %".135", 0x3ff0000000000000
  %".137" = fsub float %".135", %".136"
  %".138" = fsub float 0x3ff0000000000000, %".137"
  %".139" = fsub float %".134", %".136"
  %".140" = fadd float %".138", %".139"
  %".141" = fdiv float %".140", %".135"
  %".142" = fcmp olt float %".135", 0x3810000000000000
  %".143" = fmul float %".135", 0x4170000000000000
  %".144" = select  i1 %".142", float %".143", float %".135"
  %".145" = bitcast float %".144" to i32
  %".146" = add i32 %".145", 4913933
  %".147" = lshr i32 %".146", 23
  %".148" = and i32 %".146", 8388607
  %".149" = add i32 %".147", 1262485504
  %".150" = bitcast i32 %".149" to float
  %".151" = select  i1 %".142", float 0x41680012e0000000, float 0x4168000fe0000000
  %".152" = fsub float %".150", %".151"
  %".153" = add i32 %".148", 1060439283
  %".154" = bitcast i32 %".153" to float
  %".155" = fsub float %".154", 0x3ff0000000000000
  %".156" = fmul float %".155", %".155"
  %".157" = fmul float %".156", 0x3fe0000000000000
  %".158" = call float @"llvm.fma.f32"(float 0xbfb3833520000000, float %".155", float 0x3fc0528040000000)
  %".159" = call float @"llvm.fma.f32"(float %".158", float %".155", float 0xbfc0d72960000000)
  %".160" = call float @"llvm.fma.f32"(float %".159", float %".155", float 0x3fc22d5b00000000)
  %".161" = call float @"llvm.fma.f32"(float %".160", float %".155", float 0xbfc54723a0000000)
  %".162" = call float @"llvm.fma.f32"(float %".161", float %".155", float 0x3fc99a0360000000)
  %".163" = call float @"llvm.fma.f32"(float %".162", float %".155", float 0xbfd0002280000000)
  %".164" = call float @"llvm.fma.f32"(float %".163", float %".155", float 0x3fd5555540000000)
  %".165" = fmul float %".156", %".155"
  %".166" = fmul float %".164", %".165"
  %".167" = call float @"llvm.fma.f32"(float %".152", float 0x3eb7f7d1c0000000, float %".166")
  %".168" = fadd float %".167", %".141"
  %".169" = fsub float %".157", %".168"
  %".170" = fsub float %".155", %".169"
  %".171" = call float @"llvm.fma.f32"(float %".152", float 0x3fe62e4000000000, float %".170")
  %".172" = fcmp ogt float %".135",              0x0
  %".173" = fcmp olt float %".135", 0x7ff0000000000000
  %".174" = and i1 %".172", %".173"
  %".175" = fcmp olt float %".135",              0x0
  %".176" = select  i1 %".175", float 0x7ff8000000000000, float %".135"
  %".177" = fcmp oeq float %".135",              0x0
  %".178" = select  i1 %".177", float 0xfff0000000000000, float %".176"
  %".179" = select  i1 %".174", float %".171", float %".178"
  %".180" = call float @"llvm.fabs.f32"(float %".134")
  %".181" = fcmp olt float %".180", 0x3e60000000000000
  %".182" = select  i1 %".181", float %".134", float %".179"
  %".183" = fadd float %".132", %".182"
  %".184" = fcmp olt float 0x4055d58a00000000, %".183"
  %".185" = select  i1 %".184", float 0x4055d58a00000000, float %".183"
  store float %".185", ptr %".131", align 4
  %".187" = add i64 %".13", 1
  %".188" = icmp slt i64 %".187", %".5"
  br i1 %".188", label %".9", label %".10"
}

declare i64 @"llvm.fptosi.sat.i64.f32"(float %".1")

declare <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".1", i32 %".2", <8 x i1> %".3", <8 x float> %".4")

declare <8 x float> @"llvm.fma.v8f32"(<8 x float> %".1", <8 x float> %".2", <8 x float> %".3")

declare float @"llvm.fma.f32"(float %".1", float %".2", float %".3")

declare float @"llvm.fabs.f32"(float %".1")

define internal void @"k2_sum_times"(ptr %".1", ptr %".2", i64 %".3", i64 %".4", ptr %".5") nounwind
{
.7:
  %".8" = icmp slt i64 %".3", %".4"
  br i1 %".8", label %".9", label %".10"
.9:
  %".12" = getelementptr float, ptr %".1", i64 0
  %".13" = load float, ptr %".12", align 4
  %".14" = fadd float              0x0, %".13"
  %".15" = getelementptr float, ptr %".1", i64 1
  %".16" = load float, ptr %".15", align 4
  %".17" = fadd float %".14", %".16"
  %".18" = fmul float %".17", 0x3fe0000000000000
  store float %".18", ptr %".2", align 4
  br label %".10"
.10:
  ret void
}

define internal void @"k3_copy"(ptr %".1", ptr %".2", i64 %".3", i64 %".4", ptr %".5") nounwind
{
.7:
  %".8" = icmp slt i64 %".3", %".4"
  %".12" = load float, ptr %".1", align 4
  br i1 %".8", label %".9", label %".10"
.9:
  store float %".12", ptr %".2", align 4
  br label %".10"
.10:
  ret void
}

define internal void @"k4_fill_softmax_log_loss_gradient"(ptr %".1", ptr %".2", ptr %".3", i64 %".4", i64 %".5", ptr %".6") nounwind
{
.8:
  %".9" = alloca [12 x float], align 64
  %".12" = icmp slt i64 %".4", %".5"
  br i1 %".12", label %".10", label %".11"
.10:
  %".14" = phi  i64 [%".4", %".8"], [%".161", %".139"]
  %".15" = getelementptr float, ptr %".2", i64 %".14"
  %".16" = load float, ptr %".15", align 4
  %".17" = call i64 @"llvm.fptosi.sat.i64.f32"(float %".16")
  %".18" = icmp sle i64 0, %".17"
  %".19" = icmp slt i64 %".17", 4
  %".20" = and i1 %".18", %".19"
  %".21" = xor i1 %".20", 1
  br i1 %".21", label %".22", label %".23"
.11:
  ret void
.22:
  %".25" = getelementptr i64, ptr %".6", i64 1
  store i64 %".17", ptr %".25", align 8
  store i64 1, ptr %".6", align 8
  br label %".23"
.23:
  %".29" = icmp slt i64 %".17", 0
  %".30" = select  i1 %".29", i64 0, i64 %".17"
  %".31" = icmp sgt i64 %".30", 3
  %".32" = select  i1 %".31", i64 3, i64 %".30"
  %".35" = mul i64 %".14", 4
  %".36" = getelementptr float, ptr %".1", i64 %".35"
  br label %".33"
.33:
  %".37" = getelementptr float, ptr %".36", i64 0
  %".38" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".37", i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float              0x0))
  %".39" = fcmp ogt <8 x float> %".38", splat (float 0xfff0000000000000)
  %".40" = select  <8 x i1> %".39", <8 x float> %".38", <8 x float> splat (float 0xfff0000000000000)
  %".41" = select  <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %".40", <8 x float> splat (float 0xfff0000000000000)
  %".42" = shufflevector <8 x float> %".41", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %".43" = shufflevector <8 x float> %".41", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %".44" = fcmp ogt <4 x float> %".43", %".42"
  %".45" = select  <4 x i1> %".44", <4 x float> %".43", <4 x float> %".42"
  %".46" = shufflevector <4 x float> %".45", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 0, i32 1>
  %".47" = shufflevector <4 x float> %".45", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 2, i32 3>
  %".48" = fcmp ogt <2 x float> %".47", %".46"
  %".49" = select  <2 x i1> %".48", <2 x float> %".47", <2 x float> %".46"
  %".50" = shufflevector <2 x float> %".49", <2 x float> <float undef, float undef>, <1 x i32> <i32 0>
  %".51" = shufflevector <2 x float> %".49", <2 x float> <float undef, float undef>, <1 x i32> <i32 1>
  %".52" = fcmp ogt <1 x float> %".51", %".50"
  %".53" = select  <1 x i1> %".52", <1 x float> %".51", <1 x float> %".50"
  %".54" = extractelement <1 x float> %".53", i32 0
  %".55" = getelementptr float, ptr %".36", i64 %".32"
  %".56" = load float, ptr %".55", align 4
  %".63" = insertelement <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, float %".54", i32 0
  %".64" = shufflevector <8 x float> %".63", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <8 x i32> zeroinitializer
  br label %".57"
.57:
  %".59" = getelementptr float, ptr %".36", i64 0
  %".60" = getelementptr float, ptr %".59", i64 4
  call void @"llvm.prefetch.p0"(ptr %".60", i32 0, i32 3, i32 1)
  %".62" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".59", i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float              0x0))
  %".65" = fsub <8 x float> %".62", %".64"
  %".66" = fcmp olt <8 x float> %".65", splat (float 0xc05a000000000000)
  %".67" = select  <8 x i1> %".66", <8 x float> splat (float 0xc05a000000000000), <8 x float> %".65"
  %".68" = fmul <8 x float> %".67", splat (float 0x3ff7154760000000)
  %".69" = fadd <8 x float> %".68", splat (float 0x4168000000000000)
  %".70" = fsub <8 x float> %".69", splat (float 0x4168000000000000)
  %".71" = bitcast <8 x float> %".69" to <8 x i32>
  %".72" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".70", <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %".67")
  %".73" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".70", <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %".72")
  %".74" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %".73", <8 x float> splat (float 0x3f8122c520000000))
  %".75" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".74", <8 x float> %".73", <8 x float> splat (float 0x3fa5555380000000))
  %".76" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".75", <8 x float> %".73", <8 x float> splat (float 0x3fc5554aa0000000))
  %".77" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".76", <8 x float> %".73", <8 x float> splat (float 0x3fe0000000000000))
  %".78" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".77", <8 x float> %".73", <8 x float> splat (float 0x3ff0000000000000))
  %".79" = call <8 x float> @"llvm.fma.v8f32"(<8 x float> %".78", <8 x float> %".73", <8 x float> splat (float 0x3ff0000000000000))
  %".80" = sub <8 x i32> %".71", splat (i32 1262485250)
  %".81" = lshr <8 x i32> %".80", splat (i32 1)
  %".82" = sub <8 x i32> %".80", %".81"
  %".83" = shl <8 x i32> %".81", splat (i32 23)
  %".84" = bitcast <8 x i32> %".83" to <8 x float>
  %".85" = fmul <8 x float> %".79", %".84"
  %".86" = shl <8 x i32> %".82", splat (i32 23)
  %".87" = bitcast <8 x i32> %".86" to <8 x float>
  %".88" = fmul <8 x float> %".85", %".87"
  %".89" = mul i64 0, 1
  %".90" = getelementptr float, ptr %".9", i64 %".89"
  store <8 x float> %".88", ptr %".90", align 4
  %".92" = add i64 0, 0
  %".93" = sub i64 %".32", %".92"
  %".94" = trunc i64 %".93" to i32
  %".95" = insertelement <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, i32 %".94", i32 0
  %".96" = shufflevector <8 x i32> %".95", <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, <8 x i32> zeroinitializer
  %".97" = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %".96"
  %".98" = select  <8 x i1> %".97", <8 x float> splat (float              0x0), <8 x float> %".88"
  %".99" = fadd <8 x float> splat (float              0x0), %".98"
  %".100" = select  <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %".99", <8 x float> splat (float              0x0)
  %".101" = shufflevector <8 x float> %".100", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %".102" = shufflevector <8 x float> %".100", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %".103" = fadd <4 x float> %".101", %".102"
  %".104" = shufflevector <4 x float> %".103", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 0, i32 1>
  %".105" = shufflevector <4 x float> %".103", <4 x float> <float undef, float undef, float undef, float undef>, <2 x i32> <i32 2, i32 3>
  %".106" = fadd <2 x float> %".104", %".105"
  %".107" = shufflevector <2 x float> %".106", <2 x float> <float undef, float undef>, <1 x i32> <i32 0>
  %".108" = shufflevector <2 x float> %".106", <2 x float> <float undef, float undef>, <1 x i32> <i32 1>
  %".109" = fadd <1 x float> %".107", %".108"
  %".110" = extractelement <1 x float> %".109", i32 0
  %".111" = fsub float %".56", %".54"
  %".112" = fcmp ogt float %".111", 0x4056400000000000
  %".113" = select  i1 %".112", float 0x4056400000000000, float %".111"
  %".114" = fcmp olt float %".113", 0xc05a000000000000
  %".115" = select  i1 %".114", float 0xc05a000000000000, float %".113"
  %".116" = fmul float %".115", 0x3ff7154760000000
  %".117" = fadd float %".116", 0x4168000000000000
  %".118" = fsub float %".117", 0x4168000000000000
  %".119" = bitcast float %".117" to i32
  %".120" = call float @"llvm.fma.f32"(float %".118", float 0xbfe62e4000000000, float %".115")
  %".121" = call float @"llvm.fma.f32"(float %".118", float 0xbeb7f7d1c0000000, float %".120")
  %".122" = call float @"llvm.fma.f32"(float 0x3f56cd7980000000, float %".121", float 0x3f8122c520000000)
  %".123" = call float @"llvm.fma.f32"(float %".122", float %".121", float 0x3fa5555380000000)
  %".124" = call float @"llvm.fma.f32"(float %".123", float %".121", float 0x3fc5554aa0000000)
  %".125" = call float @"llvm.fma.f32"(float %".124", float %".121", float 0x3fe0000000000000)
  %".126" = call float @"llvm.fma.f32"(float %".125", float %".121", float 0x3ff0000000000000)
  %".127" = call float @"llvm.fma.f32"(float %".126", float %".121", float 0x3ff0000000000000)
  %".128" = sub i32 %".119", 1262485250
  %".129" = lshr i32 %".128", 1
  %".130" = sub i32 %".128", %".129"
  %".131" = shl i32 %".129", 23
  %".132" = bitcast i32 %".131" to float
  %".133" = fmul float %".127", %".132"
  %".134" = shl i32 %".130", 23
  %".135" = bitcast i32 %".134" to float
  %".136" = fmul float %".133", %".135"
  %".137" = fadd float %".110", %".136"
  %".138" = fdiv float 0x3fe0000000000000, %".137"
  %".144" = mul i64 %".14", 4
  %".145" = getelementptr float, ptr %".3", i64 %".144"
  %".147" = insertelement <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, float %".138", i32 0
  %".148" = shufflevector <8 x float> %".147", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <8 x i32> zeroinitializer
  %".155" = fneg float %".110"
  %".156" = insertelement <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, float %".155", i32 0
  %".157" = shufflevector <8 x float> %".156", <8 x float> <float undef, float undef, float undef, float undef, float undef, float undef, float undef, float undef>, <8 x i32> zeroinitializer
  br label %".139"
.139:
  %".141" = mul i64 0, 1
  %".142" = getelementptr float, ptr %".9", i64 %".141"
  %".143" = load <8 x float>, ptr %".142", align 4
  %".146" = getelementptr float, ptr %".145", i64 0
  %".149" = add i64 0, 0
  %".150" = sub i64 %".32", %".149"
  %".151" = trunc i64 %".150" to i32
  %".152" = insertelement <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, i32 %".151", i32 0
  %".153" = shufflevector <8 x i32> %".152", <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, <8 x i32> zeroinitializer
  %".154" = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %".153"
  %".158" = select  <8 x i1> %".154", <8 x float> %".157", <8 x float> %".143"
  %".159" = fmul <8 x float> %".148", %".158"
  call void @"llvm.masked.store.v8f32.p0"(<8 x float> %".159", ptr %".146", i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>)
  %".161" = add i64 %".14", 1
  %".162" = icmp slt i64 %".161", %".5"
  br i1 %".162", label %".10", label %".11"
}

declare void @"llvm.prefetch.p0"(ptr %".1", i32 %".2", i32 %".3", i32 %".4")

declare void @"llvm.masked.store.v8f32.p0"(<8 x float> %".1", ptr %".2", i32 %".3", <8 x i1> %".4")

define internal void @"k5_map_gradient"(ptr %".1", ptr %".2", ptr %".3", i64 %".4", i64 %".5", ptr %".6") nounwind
{
.8:
  %".11" = icmp slt i64 %".4", %".5"
  br i1 %".11", label %".9", label %".10"
.9:
  %".13" = phi  i64 [%".4", %".8"], [%".23", %".9"]
  %".14" = getelementptr float, ptr %".3", i64 %".13"
  %".15" = getelementptr float, ptr %".1", i64 %".13"
  %".16" = load <8 x float>, ptr %".15", align 4
  %".17" = getelementptr float, ptr %".2", i64 %".13"
  %".18" = load <8 x float>, ptr %".17", align 4
  %".19" = fcmp olt <8 x float> splat (float              0x0), %".18"
  %".20" = select  <8 x i1> %".19", <8 x float> splat (float 0x3ff0000000000000), <8 x float> splat (float              0x0)
  %".21" = fmul <8 x float> %".16", %".20"
  store <8 x float> %".21", ptr %".14", align 4
  %".23" = add i64 %".13", 8
  %".24" = icmp slt i64 %".23", %".5"
  br i1 %".24", label %".9", label %".10"
.10:
  ret void
}

define internal void @"k6_sum"(ptr %".1", ptr %".2", i64 %".3", i64 %".4", ptr %".5") nounwind
{
.7:
  %".8" = sub i64 %".4", %".3"
  %".9" = and i64 %".8", -8
  %".10" = add i64 %".3", %".9"
  %".13" = icmp slt i64 %".3", %".10"
  br i1 %".13", label %".11", label %".12"
.11:
  %".15" = phi  i64 [%".3", %".7"], [%".25", %".11"]
  %".16" = getelementptr float, ptr %".1", i64 %".15"
  %".17" = getelementptr float, ptr %".16", i64 0
  %".18" = load <8 x float>, ptr %".17", align 4
  %".19" = fadd <8 x float> splat (float              0x0), %".18"
  %".20" = getelementptr float, ptr %".16", i64 4
  %".21" = load <8 x float>, ptr %".20", align 4
  %".22" = fadd <8 x float> %".19", %".21"
  %".23" = getelementptr float, ptr %".2", i64 %".15"
  store <8 x float> %".22", ptr %".23", align 4
  %".25" = add i64 %".15", 8
  %".26" = icmp slt i64 %".25", %".10"
  br i1 %".26", label %".11", label %".12"
.12:
  %".28" = sub i64 %".4", %".10"
  %".29" = icmp sgt i64 %".28", 0
  br i1 %".29", label %".30", label %".31"
.30:
  %".33" = trunc i64 %".28" to i32
  %".34" = insertelement <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, i32 %".33", i32 0
  %".35" = shufflevector <8 x i32> %".34", <8 x i32> <i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef, i32 undef>, <8 x i32> zeroinitializer
  %".36" = icmp slt <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %".35"
  %".37" = getelementptr float, ptr %".1", i64 %".10"
  %".38" = getelementptr float, ptr %".37", i64 0
  %".39" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".38", i32 4, <8 x i1> %".36", <8 x float> splat (float              0x0))
  %".40" = fadd <8 x float> splat (float              0x0), %".39"
  %".41" = select  <8 x i1> %".36", <8 x float> %".40", <8 x float> splat (float              0x0)
  %".42" = getelementptr float, ptr %".37", i64 4
  %".43" = call <8 x float> @"llvm.masked.load.v8f32.p0"(ptr %".42", i32 4, <8 x i1> %".36", <8 x float> splat (float              0x0))
  %".44" = fadd <8 x float> %".41", %".43"
  %".45" = select  <8 x i1> %".36", <8 x float> %".44", <8 x float> %".41"
  %".46" = getelementptr float, ptr %".2", i64 %".10"
  call void @"llvm.masked.store.v8f32.p0"(<8 x float> %".45", ptr %".46", i32 4, <8 x i1> %".36")
  br label %".31"
.31:
  ret void
}

define internal void @"k7_mat_mul"(ptr %".1", ptr %".2", ptr %".3", i64 %".4", i64 %".5", ptr %".6") nounwind
{
.8:
  %".11" = icmp slt i64 %".4", %".5"
  br i1 %".11", label %".9", label %".10"
.9:
  %".13" = phi  i64 [%".4", %".8"], [%".56", %".49"]
  %".14" = mul i64 0, 4
  %".15" = getelementptr float, ptr %".2", i64 %".14"
  %".16" = mul i64 0, 4
  %".17" = getelementptr float, ptr %".1", i64 %".16"
  br label %".18"
.10:
  ret void
.18:
  %".21" = phi  i64 [0, %".9"], [%".37", %".18"]
  %".22" = phi  <4 x float> [splat (float              0x0), %".9"], [%".31", %".18"]
  %".23" = phi  <4 x float> [splat (float              0x0), %".9"], [%".36", %".18"]
  %".24" = getelementptr float, ptr %".17", i64 %".21"
  %".25" = mul i64 %".21", 3
  %".26" = getelementptr float, ptr %".15", i64 %".25"
  %".27" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".26", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".28" = load float, ptr %".24", align 4
  %".29" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".28", i32 0
  %".30" = shufflevector <4 x float> %".29", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".31" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".30", <4 x float> %".27", <4 x float> %".22")
  %".32" = getelementptr float, ptr %".24", i64 4
  %".33" = load float, ptr %".32", align 4
  %".34" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".33", i32 0
  %".35" = shufflevector <4 x float> %".34", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".36" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".35", <4 x float> %".27", <4 x float> %".23")
  %".37" = add i64 %".21", 1
  %".38" = icmp slt i64 %".37", 4
  br i1 %".38", label %".18", label %".19"
.19:
  %".40" = add i64 0, 0
  br label %".41"
.41:
  %".43" = add i64 %".14", 0
  %".44" = mul i64 %".40", 3
  %".45" = getelementptr float, ptr %".3", i64 %".44"
  %".46" = getelementptr float, ptr %".45", i64 %".43"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".31", ptr %".46", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".48" = add i64 0, 1
  br label %".49"
.49:
  %".51" = add i64 %".14", 0
  %".52" = mul i64 %".48", 3
  %".53" = getelementptr float, ptr %".3", i64 %".52"
  %".54" = getelementptr float, ptr %".53", i64 %".51"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".36", ptr %".54", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".56" = add i64 %".13", 1
  %".57" = icmp slt i64 %".56", %".5"
  br i1 %".57", label %".9", label %".10"
}

declare void @"llvm.masked.store.v4f32.p0"(<4 x float> %".1", ptr %".2", i32 %".3", <4 x i1> %".4")

define internal void @"k8_mat_mul"(ptr %".1", ptr %".2", ptr %".3", i64 %".4", i64 %".5", ptr %".6") nounwind
{
.8:
  %".11" = icmp slt i64 %".4", %".5"
  br i1 %".11", label %".9", label %".10"
.9:
  %".13" = phi  i64 [%".4", %".8"], [%".84", %".77"]
  %".14" = mul i64 0, 4
  %".15" = getelementptr float, ptr %".2", i64 %".14"
  %".16" = getelementptr float, ptr %".1", i64 0
  br label %".17"
.10:
  ret void
.17:
  %".20" = phi  i64 [0, %".9"], [%".49", %".17"]
  %".21" = phi  <4 x float> [splat (float              0x0), %".9"], [%".33", %".17"]
  %".22" = phi  <4 x float> [splat (float              0x0), %".9"], [%".38", %".17"]
  %".23" = phi  <4 x float> [splat (float              0x0), %".9"], [%".43", %".17"]
  %".24" = phi  <4 x float> [splat (float              0x0), %".9"], [%".48", %".17"]
  %".25" = mul i64 %".20", 4
  %".26" = getelementptr float, ptr %".16", i64 %".25"
  %".27" = mul i64 %".20", 3
  %".28" = getelementptr float, ptr %".15", i64 %".27"
  %".29" = call <4 x float> @"llvm.masked.load.v4f32.p0"(ptr %".28", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float              0x0))
  %".30" = load float, ptr %".26", align 4
  %".31" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".30", i32 0
  %".32" = shufflevector <4 x float> %".31", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".33" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".32", <4 x float> %".29", <4 x float> %".21")
  %".34" = getelementptr float, ptr %".26", i64 1
  %".35" = load float, ptr %".34", align 4
  %".36" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".35", i32 0
  %".37" = shufflevector <4 x float> %".36", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".38" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".37", <4 x float> %".29", <4 x float> %".22")
  %".39" = getelementptr float, ptr %".26", i64 2
  %".40" = load float, ptr %".39", align 4
  %".41" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".40", i32 0
  %".42" = shufflevector <4 x float> %".41", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".43" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".42", <4 x float> %".29", <4 x float> %".23")
  %".44" = getelementptr float, ptr %".26", i64 3
  %".45" = load float, ptr %".44", align 4
  %".46" = insertelement <4 x float> <float undef, float undef, float undef, float undef>, float %".45", i32 0
  %".47" = shufflevector <4 x float> %".46", <4 x float> <float undef, float undef, float undef, float undef>, <4 x i32> <i32 0, i32 0, i32 0, i32 0>
  %".48" = call <4 x float> @"llvm.fma.v4f32"(<4 x float> %".47", <4 x float> %".29", <4 x float> %".24")
  %".49" = add i64 %".20", 1
  %".50" = icmp slt i64 %".49", 2
  br i1 %".50", label %".17", label %".18"
.18:
  %".52" = add i64 0, 0
  br label %".53"
.53:
  %".55" = add i64 %".14", 0
  %".56" = mul i64 %".52", 3
  %".57" = getelementptr float, ptr %".3", i64 %".56"
  %".58" = getelementptr float, ptr %".57", i64 %".55"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".33", ptr %".58", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".60" = add i64 0, 1
  br label %".61"
.61:
  %".63" = add i64 %".14", 0
  %".64" = mul i64 %".60", 3
  %".65" = getelementptr float, ptr %".3", i64 %".64"
  %".66" = getelementptr float, ptr %".65", i64 %".63"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".38", ptr %".66", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".68" = add i64 0, 2
  br label %".69"
.69:
  %".71" = add i64 %".14", 0
  %".72" = mul i64 %".68", 3
  %".73" = getelementptr float, ptr %".3", i64 %".72"
  %".74" = getelementptr float, ptr %".73", i64 %".71"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".43", ptr %".74", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".76" = add i64 0, 3
  br label %".77"
.77:
  %".79" = add i64 %".14", 0
  %".80" = mul i64 %".76", 3
  %".81" = getelementptr float, ptr %".3", i64 %".80"
  %".82" = getelementptr float, ptr %".81", i64 %".79"
  call void @"llvm.masked.store.v4f32.p0"(<4 x float> %".48", ptr %".82", i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %".84" = add i64 %".13", 1
  %".85" = icmp slt i64 %".84", %".5"
  br i1 %".85", label %".9", label %".10"
}

%team = type { ptr, ptr, i64, i64, i64, ptr, ptr, i64, i64, [7 x i64], i64, [7 x i64] }

; What a thread works for, its number there, its state (0: there is none, 1: it lingers, 2: it was
; called), its handle (null: none to join), and whether it is to linger.
%member = type { ptr, i64, i64, ptr, i64, [3 x i64] }
; Whether a call has the crew, the process it lives in, and its members, each on its own cache line.
%crew = type { i64, i64, [6 x i64], [256 x %member] }
@graphc_crew = internal global %crew zeroinitializer, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @getpid()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal ptr @graphc_thread(ptr %member) nounwind {
entry:
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  br label %serve
serve:
  %team = load ptr, ptr %member
  %number = load i64, ptr %number_place
  %lingers = load i64, ptr %lingers_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  br label %wait
wait:
  %spins = phi i64 [ 0, %serve ], [ %more, %again ]
  %size = load atomic i64, ptr %size_place acquire, align 8
  %unknown = icmp eq i64 %size, 0
  br i1 %unknown, label %again, label %walk
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
walk:
  call void @graphc_walk(ptr %team, i64 %number)
  %stays = icmp ne i64 %lingers, 0
  br i1 %stays, label %linger, label %gone
linger:
  store atomic i64 1, ptr %state_place release, align 8
  br label %idle
idle:
  %waited = phi i64 [ 0, %linger ], [ %waited_more, %wait_more ], [ %waited, %leave ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  switch i64 %state, label %serve [ i64 0, label %gone
                                    i64 1, label %still_idle ]
still_idle:
  %long = icmp ugt i64 %waited, 4000
  br i1 %long, label %leave, label %wait_more
wait_more:
  call void @llvm.x86.sse2.pause()
  %waited_more = add i64 %waited, 1
  br label %idle
leave:
  %left = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  %is_gone = extractvalue { i64, i1 } %left, 1
  br i1 %is_gone, label %gone, label %idle
gone:
  ret ptr null
}

; Whether a member of the crew could be called to work, its fields being set; else it is made.
define internal i1 @graphc_call(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %swapped = cmpxchg ptr %state_place, i64 1, i64 2 acq_rel monotonic
  %called = extractvalue { i64, i1 } %swapped, 1
  br i1 %called, label %yes, label %other
other:
  call void @graphc_join(ptr %member)
  store atomic i64 2, ptr %state_place monotonic, align 8
  %status = call i32 @pthread_create(ptr %handle_place, ptr null, ptr @graphc_thread, ptr %member)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %no, label %yes
yes:
  ret i1 true
no:
  store ptr null, ptr %handle_place
  store atomic i64 0, ptr %state_place monotonic, align 8
  ret i1 false
}

; Wait for the end of a thread that is about to end, if there is one.
define internal void @graphc_join(ptr %member) nounwind {
entry:
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %handle = load ptr, ptr %handle_place
  %none = icmp eq ptr %handle, null
  br i1 %none, label %done, label %join
join:
  %ignored = call i32 @pthread_join(ptr %handle, ptr null)
  store ptr null, ptr %handle_place
  br label %done
done:
  ret void
}

; Wait until a member that lingers has done its part of a call.
define internal void @graphc_await(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  br label %wait
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  %works = icmp eq i64 %state, 2
  br i1 %works, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; The members for a call: the crew, or where another call has that, the caller's own. In a process
; that was forked the crew is forgotten: its threads are in the other one.
define internal ptr @graphc_members(ptr %own) nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %apart
crew:
  %members = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %known, label %forget
forget:
  call void @llvm.memset.p0.i64(ptr %members, i8 0, i64 16384, i1 false)
  store i64 %here, ptr %process_place
  br label %known
known:
  ret ptr %members
apart:
  call void @llvm.memset.p0.i64(ptr %own, i8 0, i64 16384, i1 false)
  ret ptr %own
}

; Send the crew away, unless a call has it.
define void @graphc_rest() nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %done
crew:
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %each, label %give_back
each:
  %j = phi i64 [ 1, %crew ], [ %next, %each ]
  %member = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3, i64 %j
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %told = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  call void @graphc_join(ptr %member)
  %next = add i64 %j, 1
  %more = icmp slt i64 %next, 256
  br i1 %more, label %each, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %done
done:
  ret void
}

; Each counter on its own cache line.
%claim = type { i64, [7 x i64] }

; A piece of a step's units to run now, first and behind the last; { 0, 0 }: there are none left.
; least: no more than so many units are not cut.
define internal { i64, i64 } @graphc_claim(ptr %claims, i64 %thread, i64 %threads, i64 %step,
  i64 %units, i64 %grain, i64 %least) nounwind {
entry:
  %alone = icmp eq i64 %threads, 1
  %halvings = select i1 %alone, i64 0, i64 5
  %few = icmp ult i64 %threads, 8
  %reach = select i1 %few, i64 %threads, i64 8
  %numbered = add i64 %step, 1
  %fresh = shl i64 %numbered, 8
  br label %victim
victim:
  %k = phi i64 [ 0, %entry ], [ %k_next, %exhausted ]
  %far = add i64 %thread, %k
  %v = urem i64 %far, %threads
  %low_product = mul i64 %v, %units
  %low = udiv i64 %low_product, %threads
  %high_product = add i64 %low_product, %units
  %high = udiv i64 %high_product, %threads
  %count = sub i64 %high, %low
  %place = getelementptr %claim, ptr %claims, i64 %v
  %first = load atomic i64, ptr %place monotonic, align 8
  br label %look
look:
  ; Piece p begins where count / 2^p units are left; the last one has all of them.
  %seen = phi i64 [ %first, %victim ], [ %now, %take ]
  %is_old = icmp ult i64 %seen, %fresh
  %old = select i1 %is_old, i64 %fresh, i64 %seen
  %piece = sub i64 %old, %fresh
  %is_there = icmp ule i64 %piece, %halvings
  %shift = select i1 %is_there, i64 %piece, i64 0
  %left = lshr i64 %count, %shift
  %is_first = icmp eq i64 %shift, 0
  %shorter = sub i64 %shift, 1
  %shift_before = select i1 %is_first, i64 0, i64 %shorter
  %left_before = lshr i64 %count, %shift_before
  %was_cut = icmp ugt i64 %left_before, %least
  %some = icmp ne i64 %left, 0
  %exists = select i1 %is_first, i1 %some, i1 %was_cut
  %free = and i1 %is_there, %exists
  br i1 %free, label %take, label %exhausted
take:
  %more = add i64 %old, 1
  %swapped = cmpxchg ptr %place, i64 %seen, i64 %more monotonic monotonic
  %now = extractvalue { i64, i1 } %swapped, 0
  %mine = extractvalue { i64, i1 } %swapped, 1
  br i1 %mine, label %found, label %look
found:
  %half = lshr i64 %left, 1
  %from = sub i64 %high, %left
  %to = sub i64 %high, %half
  %from_over = urem i64 %from, %grain
  %to_over = urem i64 %to, %grain
  %from_even = sub i64 %from, %from_over
  %to_even = sub i64 %to, %to_over
  %is_uncut = icmp ule i64 %left, %least
  %is_halved = icmp eq i64 %piece, %halvings
  %is_last = or i1 %is_uncut, %is_halved
  %begin = select i1 %is_first, i64 %low, i64 %from_even
  %end = select i1 %is_last, i64 %high, i64 %to_even
  %begun = insertvalue { i64, i64 } undef, i64 %begin, 0
  %whole = insertvalue { i64, i64 } %begun, i64 %end, 1
  ret { i64, i64 } %whole
exhausted:
  %k_next = add i64 %k, 1
  %is_more = icmp ult i64 %k_next, %reach
  br i1 %is_more, label %victim, label %none
none:
  ret { i64, i64 } zeroinitializer
}

; clock_gettime or the like, the clock it is to read, room for the times, and how many of them each
; thread has: two struct timespec a step.
%timer = type { ptr, i32, ptr, i64 }

declare i32 @sched_yield()
declare void @llvm.x86.sse2.pause()

; Wait a moment; after many moments, let somebody else run.
define internal void @graphc_pause(i64 %spins) nounwind {
entry:
  call void @llvm.x86.sse2.pause()
  %long = icmp ugt i64 %spins, 1000
  br i1 %long, label %yield, label %done
yield:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}

define internal void @graphc_barrier(ptr %team, i64 %size) nounwind {
entry:
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  %now = load atomic i64, ptr %behind monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %size
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %arrived monotonic, align 8
  %next = add i64 %now, 1
  store atomic i64 %next, ptr %behind release, align 8
  ret void
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %seen = load atomic i64, ptr %behind acquire, align 8
  %still = icmp eq i64 %seen, %now
  br i1 %still, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; Note when a thread begins a step (side 0), or ends it (side 1).
define internal void @graphc_note(ptr %timer, i64 %thread, i64 %step, i64 %side) nounwind {
entry:
  %clock = load ptr, ptr %timer
  %kind_place = getelementptr %timer, ptr %timer, i32 0, i32 1
  %kind = load i32, ptr %kind_place
  %times_place = getelementptr %timer, ptr %timer, i32 0, i32 2
  %times = load ptr, ptr %times_place
  %room_place = getelementptr %timer, ptr %timer, i32 0, i32 3
  %room = load i64, ptr %room_place
  %before = mul i64 %thread, %room
  %twice = mul i64 %step, 2
  %number = add i64 %twice, %side
  %place = add i64 %before, %number
  %time = getelementptr [2 x i64], ptr %times, i64 %place
  %ignored = call i32 %clock(i32 %kind, ptr %time)
  ret void
}

define internal void @graphc_walk(ptr %team, i64 %thread) nounwind {
entry:
  %slots = load ptr, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  %error = load ptr, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  %first = load i64, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  %last = load i64, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  %size = load i64, ptr %size_place
  %together = icmp ugt i64 %size, 1
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  %timer = load ptr, ptr %timer_place
  %timed = icmp ne ptr %timer, null
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  %claims = load ptr, ptr %claims_place
  %some = icmp slt i64 %first, %last
  br i1 %some, label %step, label %done
step:
  %s = phi i64 [ %first, %entry ], [ %following, %behind ]
  %flag_place = getelementptr i8, ptr @graphc_waits, i64 %s
  %flag = load i8, ptr %flag_place
  %flagged = icmp ne i8 %flag, 0
  %waits = and i1 %flagged, %together
  br i1 %waits, label %barrier, label %ready
barrier:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %ready
ready:
  %may_stop = icmp eq i64 %s, 4
  %begun = icmp ne i64 %s, %first
  %looks = and i1 %may_stop, %begun
  br i1 %looks, label %look, label %go
look:
  %found = load i64, ptr %error
  %refused = icmp ne i64 %found, 0
  br i1 %together, label %seen, label %decide
seen:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %decide
decide:
  br i1 %refused, label %done, label %go
go:
  br i1 %timed, label %note, label %run
note:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 0)
  br label %run
run:
  %function_place = getelementptr ptr, ptr @graphc_steps, i64 %s
  %function = load ptr, ptr %function_place
  call void %function(ptr %slots, i64 %thread, i64 %size, ptr %error, ptr %claims)
  br i1 %timed, label %note_end, label %behind
note_end:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 1)
  br label %behind
behind:
  %following = add i64 %s, 1
  %more = icmp slt i64 %following, %last
  br i1 %more, label %step, label %done
done:
  ret void
}

define internal i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %wanted, ptr %error,
  ptr %timer) nounwind {
entry:
  %team = alloca %team, align 64
  %own = alloca [256 x %member], align 64
  %claims = alloca [256 x %claim], align 64
  store ptr %slots, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  store ptr %error, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  store i64 %first, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  store i64 %last, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  store i64 0, ptr %size_place
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  store ptr %timer, ptr %timer_place
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  store ptr %claims, ptr %claims_place
  store i64 0, ptr %claims
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  store i64 0, ptr %arrived
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  store i64 0, ptr %behind
  store i64 0, ptr %error
  %value_place = getelementptr i64, ptr %error, i64 1
  store i64 0, ptr %value_place
  %few = icmp slt i32 %wanted, 256
  %clamped = select i1 %few, i32 %wanted, i32 256
  %threads = sext i32 %clamped to i64
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %count, label %start
count:
  %s = phi i64 [ %first, %entry ], [ %following, %counted ]
  %work = phi i64 [ 0, %entry ], [ %more_work, %counted ]
  %counting = icmp slt i64 %s, %last
  br i1 %counting, label %counted, label %weigh
counted:
  %work_place = getelementptr i64, ptr @graphc_work, i64 %s
  %step_work = load i64, ptr %work_place
  %more_work = add i64 %work, %step_work
  %following = add i64 %s, 1
  br label %count
weigh:
  %worth = icmp sge i64 %work, 800000
  br i1 %worth, label %gather, label %start
gather:
  %members = call ptr @graphc_members(ptr %own)
  %apart = icmp eq ptr %members, %own
  %lingering = select i1 %apart, i64 0, i64 1
  br label %create
create:
  %t = phi i64 [ 1, %gather ], [ %next, %made ]
  %member = getelementptr %member, ptr %members, i64 %t
  store ptr %team, ptr %member
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  store i64 %t, ptr %number_place
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  store i64 %lingering, ptr %lingers_place
  %claim_place = getelementptr %claim, ptr %claims, i64 %t
  store i64 0, ptr %claim_place
  %called = call i1 @graphc_call(ptr %member)
  br i1 %called, label %made, label %start
made:
  %next = add i64 %t, 1
  %all = icmp eq i64 %next, %threads
  br i1 %all, label %start, label %create
start:
  ; Where the system refuses a thread, the team is those that were made.
  %size = phi i64 [ 1, %entry ], [ 1, %weigh ], [ %t, %create ], [ %threads, %made ]
  %all_members = phi ptr [ null, %entry ], [ null, %weigh ], [ %members, %create ],
                         [ %members, %made ]
  store atomic i64 %size, ptr %size_place release, align 8
  call void @graphc_walk(ptr %team, i64 0)
  %alone = icmp eq ptr %all_members, null
  br i1 %alone, label %end, label %leave
leave:
  %with_own = icmp eq ptr %all_members, %own
  br label %each
each:
  %j = phi i64 [ 1, %leave ], [ %following_j, %done_one ]
  %left = icmp slt i64 %j, %size
  br i1 %left, label %one, label %all_done
one:
  %leaving = getelementptr %member, ptr %all_members, i64 %j
  br i1 %with_own, label %join, label %await
join:
  call void @graphc_join(ptr %leaving)
  br label %done_one
await:
  call void @graphc_await(ptr %leaving)
  br label %done_one
done_one:
  %following_j = add i64 %j, 1
  br label %each
all_done:
  br i1 %with_own, label %end, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %end
end:
  %code = load i64, ptr %error
  %short = trunc i64 %code to i32
  ret i32 %short
}

define internal void @graphc_step_0(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 1
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 3
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 4
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %s3 = getelementptr ptr, ptr %slots, i64 0
  %b3 = load ptr, ptr %s3
  %p3 = getelementptr i8, ptr %b3, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k0_mat_mul_add_bias_relu(ptr %p0, ptr %p1, ptr %p2, ptr %p3, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_1(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 2
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %found = alloca [2 x i64], align 8
  store i64 0, ptr %found
  %low = add i64 0, 0
  %high = add i64 2, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k1_softmax_log_loss(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found)
  %code = load i64, ptr %found
  %bad = icmp ne i64 %code, 0
  br i1 %bad, label %report, label %done
report:
  %value_place = getelementptr i64, ptr %found, i64 1
  %value = load i64, ptr %value_place
  %shown_place = getelementptr i64, ptr %error, i64 1
  store i64 %value, ptr %shown_place
  %number = add i64 %code, 0
  store i64 %number, ptr %error
  br label %done
done:
  ret void
}
define internal void @graphc_step_2(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 5
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k2_sum_times(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_3(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 5
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 6
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k3_copy(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_4(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 2
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %found = alloca [2 x i64], align 8
  store i64 0, ptr %found
  %low = add i64 0, 0
  %high = add i64 2, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k4_fill_softmax_log_loss_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found)
  %code = load i64, ptr %found
  %bad = icmp ne i64 %code, 0
  br i1 %bad, label %report, label %done
report:
  %value_place = getelementptr i64, ptr %found, i64 1
  %value = load i64, ptr %value_place
  %shown_place = getelementptr i64, ptr %error, i64 1
  store i64 %value, ptr %shown_place
  %number = add i64 %code, 1
  store i64 %number, ptr %error
  br label %done
done:
  ret void
}
define internal void @graphc_step_5(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 0
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %low = add i64 0, 0
  %high = add i64 8, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k5_map_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_6(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 9
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 4, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k6_sum(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_7(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 3
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 7
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k7_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
define internal void @graphc_step_8(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 1
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 8
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k8_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error)
  br label %done
done:
  ret void
}
@graphc_steps = internal constant [9 x ptr] [ptr @graphc_step_0, ptr @graphc_step_1, ptr @graphc_step_2, ptr @graphc_step_3, ptr @graphc_step_4, ptr @graphc_step_5, ptr @graphc_step_6, ptr @graphc_step_7, ptr @graphc_step_8]
@graphc_waits = internal constant [9 x i8] [i8 0, i8 0, i8 0, i8 0, i8 1, i8 0, i8 0, i8 0, i8 0]
@graphc_work = internal constant [9 x i64] [i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0]

define i32 @graphc_forward(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 0, i64 4, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_backward(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 4, i64 9, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_both(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 0, i64 9, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_step(ptr %slots, i32 %step, i32 %threads, ptr %error) nounwind {
  %first = sext i32 %step to i64
  %last = add i64 %first, 1
  %code = call i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_timed(ptr %slots, i32 %first, i32 %last, i32 %threads, ptr %error, ptr %timer)
  nounwind {
  %from = sext i32 %first to i64
  %to = sext i32 %last to i64
  %code = call i32 @graphc_run(ptr %slots, i64 %from, i64 %to, i32 %threads, ptr %error, ptr %timer)
  ret i32 %code
}
