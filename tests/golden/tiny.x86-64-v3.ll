; ModuleID = "tiny"
target triple = "x86_64-unknown-linux-gnu"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

define internal void @k0_mat_mul_add_bias_relu(ptr %a0, ptr %a1, ptr %a2, ptr %a3, i64 %a4, i64 %a5, ptr %a6, ptr noalias %a7) nounwind {
entry:
  %v2 = icmp slt i64 %a4, %a5
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a4, %entry ], [ %v55, %part48 ]
  br label %part4
after1:
  ret void
part4:
  %v5 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %a1, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v6 = getelementptr float, ptr %a1, i64 3
  %v7 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v6, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v8 = getelementptr float, ptr %a1, i64 6
  %v9 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v8, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v10 = getelementptr float, ptr %a1, i64 9
  %v11 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v10, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v12 = shufflevector <4 x float> %v5, <4 x float> %v7, <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %v13 = shufflevector <4 x float> %v5, <4 x float> %v7, <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %v14 = shufflevector <4 x float> %v9, <4 x float> %v11, <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %v15 = shufflevector <4 x float> %v9, <4 x float> %v11, <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %v16 = shufflevector <4 x float> %v12, <4 x float> %v14, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %v17 = shufflevector <4 x float> %v12, <4 x float> %v14, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  %v18 = shufflevector <4 x float> %v13, <4 x float> %v15, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %v19 = shufflevector <4 x float> %v13, <4 x float> %v15, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  store <4 x float> %v16, ptr %a7, align 4
  %v20 = getelementptr float, ptr %a7, i64 4
  store <4 x float> %v18, ptr %v20, align 4
  %v21 = getelementptr float, ptr %a7, i64 8
  store <4 x float> %v17, ptr %v21, align 4
  %v22 = getelementptr float, ptr %a7, i64 12
  store <4 x float> %v19, ptr %v22, align 4
  br label %loop23
loop23:
  %v25 = phi i64 [ 0, %part4 ], [ %v41, %loop23 ]
  %v26 = phi <4 x float> [ splat (float 0x0), %part4 ], [ %v35, %loop23 ]
  %v27 = phi <4 x float> [ splat (float 0x0), %part4 ], [ %v40, %loop23 ]
  %v28 = getelementptr float, ptr %a0, i64 %v25
  %v29 = mul i64 %v25, 4
  %v30 = getelementptr float, ptr %a7, i64 %v29
  %v31 = load <4 x float>, ptr %v30, align 4
  %v32 = load float, ptr %v28, align 4
  %v33 = insertelement <4 x float> undef, float %v32, i32 0
  %v34 = shufflevector <4 x float> %v33, <4 x float> undef, <4 x i32> zeroinitializer
  %v35 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v34, <4 x float> %v31, <4 x float> %v26)
  %v36 = getelementptr float, ptr %v28, i64 3
  %v37 = load float, ptr %v36, align 4
  %v38 = insertelement <4 x float> undef, float %v37, i32 0
  %v39 = shufflevector <4 x float> %v38, <4 x float> undef, <4 x i32> zeroinitializer
  %v40 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v39, <4 x float> %v31, <4 x float> %v27)
  %v41 = add i64 %v25, 1
  %v42 = icmp slt i64 %v41, 3
  br i1 %v42, label %loop23, label %after24
after24:
  br label %part43
part43:
  %v44 = load <4 x float>, ptr %a2, align 4
  %v45 = fadd <4 x float> %v35, %v44
  %v46 = fcmp olt <4 x float> %v45, splat (float 0x0)
  %v47 = select <4 x i1> %v46, <4 x float> splat (float 0x0), <4 x float> %v45
  store <4 x float> %v47, ptr %a3, align 4
  br label %part48
part48:
  %v49 = load <4 x float>, ptr %a2, align 4
  %v50 = fadd <4 x float> %v40, %v49
  %v51 = fcmp olt <4 x float> %v50, splat (float 0x0)
  %v52 = select <4 x i1> %v51, <4 x float> splat (float 0x0), <4 x float> %v50
  %v53 = getelementptr float, ptr %a3, i64 4
  store <4 x float> %v52, ptr %v53, align 4
  %v54 = add i64 %v3, 1
  %v55 = call i64 @llvm.expect.i64(i64 %v54, i64 0)
  %v56 = icmp slt i64 %v55, %a5
  br i1 %v56, label %loop0, label %after1
}

declare <4 x float> @llvm.masked.load.v4f32.p0(ptr, i32, <4 x i1>, <4 x float>)

declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)

declare i64 @llvm.expect.i64(i64, i64)

define internal void @k1_softmax_log_loss(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
entry:
  %v2 = icmp slt i64 %a3, %a4
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a3, %entry ], [ %v167, %part38 ]
  %v4 = getelementptr float, ptr %a1, i64 %v3
  %v5 = load float, ptr %v4, align 4
  %v6 = call i64 @llvm.fptosi.sat.i64.f32(float %v5)
  %v7 = icmp sle i64 0, %v6
  %v8 = icmp slt i64 %v6, 4
  %v9 = and i1 %v7, %v8
  %v10 = xor i1 %v9, 1
  br i1 %v10, label %guarded11, label %after12
after1:
  ret void
guarded11:
  %v13 = getelementptr i64, ptr %a5, i64 1
  store i64 %v6, ptr %v13, align 8
  store i64 1, ptr %a5, align 8
  br label %after12
after12:
  %v14 = icmp slt i64 %v6, 0
  %v15 = select i1 %v14, i64 0, i64 %v6
  %v16 = icmp sgt i64 %v15, 3
  %v17 = select i1 %v16, i64 3, i64 %v15
  %v19 = mul i64 %v3, 4
  %v20 = getelementptr float, ptr %a0, i64 %v19
  br label %part18
part18:
  %v21 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v20, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v22 = fcmp ogt <8 x float> %v21, splat (float 0xfff0000000000000)
  %v23 = select <8 x i1> %v22, <8 x float> %v21, <8 x float> splat (float 0xfff0000000000000)
  %v24 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v23, <8 x float> splat (float 0xfff0000000000000)
  %v25 = shufflevector <8 x float> %v24, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v26 = shufflevector <8 x float> %v24, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v27 = fcmp ogt <4 x float> %v26, %v25
  %v28 = select <4 x i1> %v27, <4 x float> %v26, <4 x float> %v25
  %v29 = shufflevector <4 x float> %v28, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v30 = shufflevector <4 x float> %v28, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v31 = fcmp ogt <2 x float> %v30, %v29
  %v32 = select <2 x i1> %v31, <2 x float> %v30, <2 x float> %v29
  %v33 = shufflevector <2 x float> %v32, <2 x float> undef, <1 x i32> <i32 0>
  %v34 = shufflevector <2 x float> %v32, <2 x float> undef, <1 x i32> <i32 1>
  %v35 = fcmp ogt <1 x float> %v34, %v33
  %v36 = select <1 x i1> %v35, <1 x float> %v34, <1 x float> %v33
  %v37 = extractelement <1 x float> %v36, i32 0
  %v45 = insertelement <8 x float> undef, float %v37, i32 0
  %v46 = shufflevector <8 x float> %v45, <8 x float> undef, <8 x i32> zeroinitializer
  br label %part38
part38:
  %v39 = sub i64 %v17, 0
  %v40 = trunc i64 %v39 to i32
  %v41 = insertelement <8 x i32> undef, i32 %v40, i32 0
  %v42 = shufflevector <8 x i32> %v41, <8 x i32> undef, <8 x i32> zeroinitializer
  %v43 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v42
  %v44 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v20, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v47 = fsub <8 x float> %v44, %v46
  %v48 = fcmp olt <8 x float> %v47, splat (float 0xc05a000000000000)
  %v49 = select <8 x i1> %v48, <8 x float> splat (float 0xc05a000000000000), <8 x float> %v47
  %v50 = fmul <8 x float> %v49, splat (float 0x3ff7154760000000)
  %v51 = fadd <8 x float> %v50, splat (float 0x4168000000000000)
  %v52 = fsub <8 x float> %v51, splat (float 0x4168000000000000)
  %v53 = bitcast <8 x float> %v51 to <8 x i32>
  %v54 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v52, <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %v49)
  %v55 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v52, <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %v54)
  %v56 = call <8 x float> @llvm.fma.v8f32(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %v55, <8 x float> splat (float 0x3f8122c520000000))
  %v57 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v56, <8 x float> %v55, <8 x float> splat (float 0x3fa5555380000000))
  %v58 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v57, <8 x float> %v55, <8 x float> splat (float 0x3fc5554aa0000000))
  %v59 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v58, <8 x float> %v55, <8 x float> splat (float 0x3fe0000000000000))
  %v60 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v59, <8 x float> %v55, <8 x float> splat (float 0x3ff0000000000000))
  %v61 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v60, <8 x float> %v55, <8 x float> splat (float 0x3ff0000000000000))
  %v62 = sub <8 x i32> %v53, splat (i32 1262485250)
  %v63 = lshr <8 x i32> %v62, splat (i32 1)
  %v64 = sub <8 x i32> %v62, %v63
  %v65 = shl <8 x i32> %v63, splat (i32 23)
  %v66 = bitcast <8 x i32> %v65 to <8 x float>
  %v67 = fmul <8 x float> %v61, %v66
  %v68 = shl <8 x i32> %v64, splat (i32 23)
  %v69 = bitcast <8 x i32> %v68 to <8 x float>
  %v70 = fmul <8 x float> %v67, %v69
  %v71 = select <8 x i1> %v43, <8 x float> splat (float 0x0), <8 x float> %v70
  %v72 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v71, <8 x float> splat (float 0x0)
  %v73 = shufflevector <8 x float> %v72, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v74 = shufflevector <8 x float> %v72, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v75 = fadd <4 x float> %v73, %v74
  %v76 = shufflevector <4 x float> %v75, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v77 = shufflevector <4 x float> %v75, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v78 = fadd <2 x float> %v76, %v77
  %v79 = shufflevector <2 x float> %v78, <2 x float> undef, <1 x i32> <i32 0>
  %v80 = shufflevector <2 x float> %v78, <2 x float> undef, <1 x i32> <i32 1>
  %v81 = fadd <1 x float> %v79, %v80
  %v82 = extractelement <1 x float> %v81, i32 0
  %v83 = getelementptr float, ptr %v20, i64 %v17
  %v84 = load float, ptr %v83, align 4
  %v85 = fsub float %v84, %v37
  %v86 = fcmp ogt float %v85, 0x4056400000000000
  %v87 = select i1 %v86, float 0x4056400000000000, float %v85
  %v88 = fcmp olt float %v87, 0xc05a000000000000
  %v89 = select i1 %v88, float 0xc05a000000000000, float %v87
  %v90 = fmul float %v89, 0x3ff7154760000000
  %v91 = fadd float %v90, 0x4168000000000000
  %v92 = fsub float %v91, 0x4168000000000000
  %v93 = bitcast float %v91 to i32
  %v94 = call float @llvm.fma.f32(float %v92, float 0xbfe62e4000000000, float %v89)
  %v95 = call float @llvm.fma.f32(float %v92, float 0xbeb7f7d1c0000000, float %v94)
  %v96 = call float @llvm.fma.f32(float 0x3f56cd7980000000, float %v95, float 0x3f8122c520000000)
  %v97 = call float @llvm.fma.f32(float %v96, float %v95, float 0x3fa5555380000000)
  %v98 = call float @llvm.fma.f32(float %v97, float %v95, float 0x3fc5554aa0000000)
  %v99 = call float @llvm.fma.f32(float %v98, float %v95, float 0x3fe0000000000000)
  %v100 = call float @llvm.fma.f32(float %v99, float %v95, float 0x3ff0000000000000)
  %v101 = call float @llvm.fma.f32(float %v100, float %v95, float 0x3ff0000000000000)
  %v102 = sub i32 %v93, 1262485250
  %v103 = lshr i32 %v102, 1
  %v104 = sub i32 %v102, %v103
  %v105 = shl i32 %v103, 23
  %v106 = bitcast i32 %v105 to float
  %v107 = fmul float %v101, %v106
  %v108 = shl i32 %v104, 23
  %v109 = bitcast i32 %v108 to float
  %v110 = fmul float %v107, %v109
  %v111 = getelementptr float, ptr %a2, i64 %v3
  %v112 = fsub float %v37, %v84
  %v113 = fsub float %v110, 0x3ff0000000000000
  %v114 = fadd float %v82, %v113
  %v115 = fadd float 0x3ff0000000000000, %v114
  %v116 = fsub float %v115, 0x3ff0000000000000
  %v117 = fsub float %v115, %v116
  %v118 = fsub float 0x3ff0000000000000, %v117
  %v119 = fsub float %v114, %v116
  %v120 = fadd float %v118, %v119
  %v121 = fdiv float %v120, %v115
  %v122 = fcmp olt float %v115, 0x3810000000000000
  %v123 = fmul float %v115, 0x4170000000000000
  %v124 = select i1 %v122, float %v123, float %v115
  %v125 = bitcast float %v124 to i32
  %v126 = add i32 %v125, 4913933
  %v127 = lshr i32 %v126, 23
  %v128 = and i32 %v126, 8388607
  %v129 = add i32 %v127, 1262485504
  %v130 = bitcast i32 %v129 to float
  %v131 = select i1 %v122, float 0x41680012e0000000, float 0x4168000fe0000000
  %v132 = fsub float %v130, %v131
  %v133 = add i32 %v128, 1060439283
  %v134 = bitcast i32 %v133 to float
  %v135 = fsub float %v134, 0x3ff0000000000000
  %v136 = fmul float %v135, %v135
  %v137 = fmul float %v136, 0x3fe0000000000000
  %v138 = call float @llvm.fma.f32(float 0xbfb3833520000000, float %v135, float 0x3fc0528040000000)
  %v139 = call float @llvm.fma.f32(float %v138, float %v135, float 0xbfc0d72960000000)
  %v140 = call float @llvm.fma.f32(float %v139, float %v135, float 0x3fc22d5b00000000)
  %v141 = call float @llvm.fma.f32(float %v140, float %v135, float 0xbfc54723a0000000)
  %v142 = call float @llvm.fma.f32(float %v141, float %v135, float 0x3fc99a0360000000)
  %v143 = call float @llvm.fma.f32(float %v142, float %v135, float 0xbfd0002280000000)
  %v144 = call float @llvm.fma.f32(float %v143, float %v135, float 0x3fd5555540000000)
  %v145 = fmul float %v136, %v135
  %v146 = fmul float %v144, %v145
  %v147 = call float @llvm.fma.f32(float %v132, float 0x3eb7f7d1c0000000, float %v146)
  %v148 = fadd float %v147, %v121
  %v149 = fsub float %v137, %v148
  %v150 = fsub float %v135, %v149
  %v151 = call float @llvm.fma.f32(float %v132, float 0x3fe62e4000000000, float %v150)
  %v152 = fcmp ogt float %v115, 0x0
  %v153 = fcmp olt float %v115, 0x7ff0000000000000
  %v154 = and i1 %v152, %v153
  %v155 = fcmp olt float %v115, 0x0
  %v156 = select i1 %v155, float 0x7ff8000000000000, float %v115
  %v157 = fcmp oeq float %v115, 0x0
  %v158 = select i1 %v157, float 0xfff0000000000000, float %v156
  %v159 = select i1 %v154, float %v151, float %v158
  %v160 = call float @llvm.fabs.f32(float %v114)
  %v161 = fcmp olt float %v160, 0x3e60000000000000
  %v162 = select i1 %v161, float %v114, float %v159
  %v163 = fadd float %v112, %v162
  %v164 = fcmp olt float 0x4055d58a00000000, %v163
  %v165 = select i1 %v164, float 0x4055d58a00000000, float %v163
  store float %v165, ptr %v111, align 4
  %v166 = add i64 %v3, 1
  %v167 = call i64 @llvm.expect.i64(i64 %v166, i64 0)
  %v168 = icmp slt i64 %v167, %a4
  br i1 %v168, label %loop0, label %after1
}

declare i64 @llvm.fptosi.sat.i64.f32(float)

declare <8 x float> @llvm.masked.load.v8f32.p0(ptr, i32, <8 x i1>, <8 x float>)

declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)

declare float @llvm.fma.f32(float, float, float)

declare float @llvm.fabs.f32(float)

define internal void @k2_sum_times(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
entry:
  %v0 = icmp slt i64 %a2, %a3
  br i1 %v0, label %guarded1, label %after2
guarded1:
  %v3 = load float, ptr %a0, align 4
  %v4 = getelementptr float, ptr %a0, i64 1
  %v5 = load float, ptr %v4, align 4
  %v6 = fadd float %v3, %v5
  %v7 = fmul float %v6, 0x3fe0000000000000
  store float %v7, ptr %a1, align 4
  br label %after2
after2:
  ret void
}

define internal void @k3_copy(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
entry:
  %v0 = icmp slt i64 %a2, %a3
  %v3 = load float, ptr %a0, align 4
  br i1 %v0, label %guarded1, label %after2
guarded1:
  store float %v3, ptr %a1, align 4
  br label %after2
after2:
  ret void
}

define internal void @k4_fill_softmax_log_loss_gradient(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
entry:
  %v2 = icmp slt i64 %a3, %a4
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a3, %entry ], [ %v132, %part115 ]
  %v4 = getelementptr float, ptr %a1, i64 %v3
  %v5 = load float, ptr %v4, align 4
  %v6 = call i64 @llvm.fptosi.sat.i64.f32(float %v5)
  %v7 = icmp sle i64 0, %v6
  %v8 = icmp slt i64 %v6, 4
  %v9 = and i1 %v7, %v8
  %v10 = xor i1 %v9, 1
  br i1 %v10, label %guarded11, label %after12
after1:
  ret void
guarded11:
  %v13 = getelementptr i64, ptr %a5, i64 1
  store i64 %v6, ptr %v13, align 8
  store i64 1, ptr %a5, align 8
  br label %after12
after12:
  %v14 = icmp slt i64 %v6, 0
  %v15 = select i1 %v14, i64 0, i64 %v6
  %v16 = icmp sgt i64 %v15, 3
  %v17 = select i1 %v16, i64 3, i64 %v15
  %v19 = mul i64 %v3, 4
  %v20 = getelementptr float, ptr %a0, i64 %v19
  br label %part18
part18:
  %v21 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v20, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v22 = fcmp ogt <8 x float> %v21, splat (float 0xfff0000000000000)
  %v23 = select <8 x i1> %v22, <8 x float> %v21, <8 x float> splat (float 0xfff0000000000000)
  %v24 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v23, <8 x float> splat (float 0xfff0000000000000)
  %v25 = shufflevector <8 x float> %v24, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v26 = shufflevector <8 x float> %v24, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v27 = fcmp ogt <4 x float> %v26, %v25
  %v28 = select <4 x i1> %v27, <4 x float> %v26, <4 x float> %v25
  %v29 = shufflevector <4 x float> %v28, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v30 = shufflevector <4 x float> %v28, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v31 = fcmp ogt <2 x float> %v30, %v29
  %v32 = select <2 x i1> %v31, <2 x float> %v30, <2 x float> %v29
  %v33 = shufflevector <2 x float> %v32, <2 x float> undef, <1 x i32> <i32 0>
  %v34 = shufflevector <2 x float> %v32, <2 x float> undef, <1 x i32> <i32 1>
  %v35 = fcmp ogt <1 x float> %v34, %v33
  %v36 = select <1 x i1> %v35, <1 x float> %v34, <1 x float> %v33
  %v37 = extractelement <1 x float> %v36, i32 0
  %v38 = getelementptr float, ptr %v20, i64 %v17
  %v39 = load float, ptr %v38, align 4
  %v43 = insertelement <8 x float> undef, float %v37, i32 0
  %v44 = shufflevector <8 x float> %v43, <8 x float> undef, <8 x i32> zeroinitializer
  br label %part40
part40:
  %v41 = getelementptr float, ptr %v20, i64 4
  call void @llvm.prefetch.p0(ptr %v41, i32 0, i32 3, i32 1)
  %v42 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v20, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v45 = fsub <8 x float> %v42, %v44
  %v46 = fcmp olt <8 x float> %v45, splat (float 0xc05a000000000000)
  %v47 = select <8 x i1> %v46, <8 x float> splat (float 0xc05a000000000000), <8 x float> %v45
  %v48 = fmul <8 x float> %v47, splat (float 0x3ff7154760000000)
  %v49 = fadd <8 x float> %v48, splat (float 0x4168000000000000)
  %v50 = fsub <8 x float> %v49, splat (float 0x4168000000000000)
  %v51 = bitcast <8 x float> %v49 to <8 x i32>
  %v52 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v50, <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %v47)
  %v53 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v50, <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %v52)
  %v54 = call <8 x float> @llvm.fma.v8f32(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %v53, <8 x float> splat (float 0x3f8122c520000000))
  %v55 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v54, <8 x float> %v53, <8 x float> splat (float 0x3fa5555380000000))
  %v56 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v55, <8 x float> %v53, <8 x float> splat (float 0x3fc5554aa0000000))
  %v57 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v56, <8 x float> %v53, <8 x float> splat (float 0x3fe0000000000000))
  %v58 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v57, <8 x float> %v53, <8 x float> splat (float 0x3ff0000000000000))
  %v59 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v58, <8 x float> %v53, <8 x float> splat (float 0x3ff0000000000000))
  %v60 = sub <8 x i32> %v51, splat (i32 1262485250)
  %v61 = lshr <8 x i32> %v60, splat (i32 1)
  %v62 = sub <8 x i32> %v60, %v61
  %v63 = shl <8 x i32> %v61, splat (i32 23)
  %v64 = bitcast <8 x i32> %v63 to <8 x float>
  %v65 = fmul <8 x float> %v59, %v64
  %v66 = shl <8 x i32> %v62, splat (i32 23)
  %v67 = bitcast <8 x i32> %v66 to <8 x float>
  %v68 = fmul <8 x float> %v65, %v67
  store <8 x float> %v68, ptr %a6, align 4
  %v69 = load <8 x float>, ptr %a6, align 4
  %v70 = sub i64 %v17, 0
  %v71 = trunc i64 %v70 to i32
  %v72 = insertelement <8 x i32> undef, i32 %v71, i32 0
  %v73 = shufflevector <8 x i32> %v72, <8 x i32> undef, <8 x i32> zeroinitializer
  %v74 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v73
  %v75 = select <8 x i1> %v74, <8 x float> splat (float 0x0), <8 x float> %v68
  %v76 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v75, <8 x float> splat (float 0x0)
  %v77 = shufflevector <8 x float> %v76, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v78 = shufflevector <8 x float> %v76, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v79 = fadd <4 x float> %v77, %v78
  %v80 = shufflevector <4 x float> %v79, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v81 = shufflevector <4 x float> %v79, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v82 = fadd <2 x float> %v80, %v81
  %v83 = shufflevector <2 x float> %v82, <2 x float> undef, <1 x i32> <i32 0>
  %v84 = shufflevector <2 x float> %v82, <2 x float> undef, <1 x i32> <i32 1>
  %v85 = fadd <1 x float> %v83, %v84
  %v86 = extractelement <1 x float> %v85, i32 0
  %v87 = fsub float %v39, %v37
  %v88 = fcmp ogt float %v87, 0x4056400000000000
  %v89 = select i1 %v88, float 0x4056400000000000, float %v87
  %v90 = fcmp olt float %v89, 0xc05a000000000000
  %v91 = select i1 %v90, float 0xc05a000000000000, float %v89
  %v92 = fmul float %v91, 0x3ff7154760000000
  %v93 = fadd float %v92, 0x4168000000000000
  %v94 = fsub float %v93, 0x4168000000000000
  %v95 = bitcast float %v93 to i32
  %v96 = call float @llvm.fma.f32(float %v94, float 0xbfe62e4000000000, float %v91)
  %v97 = call float @llvm.fma.f32(float %v94, float 0xbeb7f7d1c0000000, float %v96)
  %v98 = call float @llvm.fma.f32(float 0x3f56cd7980000000, float %v97, float 0x3f8122c520000000)
  %v99 = call float @llvm.fma.f32(float %v98, float %v97, float 0x3fa5555380000000)
  %v100 = call float @llvm.fma.f32(float %v99, float %v97, float 0x3fc5554aa0000000)
  %v101 = call float @llvm.fma.f32(float %v100, float %v97, float 0x3fe0000000000000)
  %v102 = call float @llvm.fma.f32(float %v101, float %v97, float 0x3ff0000000000000)
  %v103 = call float @llvm.fma.f32(float %v102, float %v97, float 0x3ff0000000000000)
  %v104 = sub i32 %v95, 1262485250
  %v105 = lshr i32 %v104, 1
  %v106 = sub i32 %v104, %v105
  %v107 = shl i32 %v105, 23
  %v108 = bitcast i32 %v107 to float
  %v109 = fmul float %v103, %v108
  %v110 = shl i32 %v106, 23
  %v111 = bitcast i32 %v110 to float
  %v112 = fmul float %v109, %v111
  %v113 = fadd float %v86, %v112
  %v114 = fdiv float 0x3fe0000000000000, %v113
  %v117 = mul i64 %v3, 4
  %v118 = getelementptr float, ptr %a2, i64 %v117
  %v119 = insertelement <8 x float> undef, float %v114, i32 0
  %v120 = shufflevector <8 x float> %v119, <8 x float> undef, <8 x i32> zeroinitializer
  %v126 = fneg float %v86
  %v127 = insertelement <8 x float> undef, float %v126, i32 0
  %v128 = shufflevector <8 x float> %v127, <8 x float> undef, <8 x i32> zeroinitializer
  br label %part115
part115:
  %v116 = load <8 x float>, ptr %a6, align 4
  %v121 = sub i64 %v17, 0
  %v122 = trunc i64 %v121 to i32
  %v123 = insertelement <8 x i32> undef, i32 %v122, i32 0
  %v124 = shufflevector <8 x i32> %v123, <8 x i32> undef, <8 x i32> zeroinitializer
  %v125 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v124
  %v129 = select <8 x i1> %v125, <8 x float> %v128, <8 x float> %v116
  %v130 = fmul <8 x float> %v120, %v129
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v130, ptr %v118, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>)
  %v131 = add i64 %v3, 1
  %v132 = call i64 @llvm.expect.i64(i64 %v131, i64 0)
  %v133 = icmp slt i64 %v132, %a4
  br i1 %v133, label %loop0, label %after1
}

declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

declare void @llvm.masked.store.v8f32.p0(<8 x float>, ptr, i32, <8 x i1>)

define internal void @k5_map_gradient(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
entry:
  %v2 = icmp slt i64 %a3, %a4
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a3, %entry ], [ %v13, %loop0 ]
  %v4 = getelementptr float, ptr %a2, i64 %v3
  %v5 = getelementptr float, ptr %a0, i64 %v3
  %v6 = load <8 x float>, ptr %v5, align 4
  %v7 = getelementptr float, ptr %a1, i64 %v3
  %v8 = load <8 x float>, ptr %v7, align 4
  %v9 = fcmp olt <8 x float> splat (float 0x0), %v8
  %v10 = select <8 x i1> %v9, <8 x float> splat (float 0x3ff0000000000000), <8 x float> splat (float 0x0)
  %v11 = fmul <8 x float> %v6, %v10
  store <8 x float> %v11, ptr %v4, align 4
  %v12 = add i64 %v3, 8
  %v13 = call i64 @llvm.expect.i64(i64 %v12, i64 0)
  %v14 = icmp slt i64 %v13, %a4
  br i1 %v14, label %loop0, label %after1
after1:
  ret void
}

define internal void @k6_sum(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
entry:
  %v0 = sub i64 %a3, %a2
  %v1 = and i64 %v0, -8
  %v2 = add i64 %a2, %v1
  %v5 = icmp slt i64 %a2, %v2
  br i1 %v5, label %loop3, label %after4
loop3:
  %v6 = phi i64 [ %a2, %entry ], [ %v14, %loop3 ]
  %v7 = getelementptr float, ptr %a0, i64 %v6
  %v8 = load <8 x float>, ptr %v7, align 4
  %v9 = getelementptr float, ptr %v7, i64 4
  %v10 = load <8 x float>, ptr %v9, align 4
  %v11 = fadd <8 x float> %v8, %v10
  %v12 = getelementptr float, ptr %a1, i64 %v6
  store <8 x float> %v11, ptr %v12, align 4
  %v13 = add i64 %v6, 8
  %v14 = call i64 @llvm.expect.i64(i64 %v13, i64 0)
  %v15 = icmp slt i64 %v14, %v2
  br i1 %v15, label %loop3, label %after4
after4:
  %v16 = sub i64 %a3, %v2
  %v17 = icmp sgt i64 %v16, 0
  br i1 %v17, label %guarded18, label %after19
guarded18:
  %v20 = trunc i64 %v16 to i32
  %v21 = insertelement <8 x i32> undef, i32 %v20, i32 0
  %v22 = shufflevector <8 x i32> %v21, <8 x i32> undef, <8 x i32> zeroinitializer
  %v23 = icmp slt <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v22
  %v24 = getelementptr float, ptr %a0, i64 %v2
  %v25 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v24, i32 4, <8 x i1> %v23, <8 x float> splat (float 0x0))
  %v26 = select <8 x i1> %v23, <8 x float> %v25, <8 x float> splat (float 0x0)
  %v27 = getelementptr float, ptr %v24, i64 4
  %v28 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v27, i32 4, <8 x i1> %v23, <8 x float> splat (float 0x0))
  %v29 = fadd <8 x float> %v26, %v28
  %v30 = select <8 x i1> %v23, <8 x float> %v29, <8 x float> %v26
  %v31 = getelementptr float, ptr %a1, i64 %v2
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v30, ptr %v31, i32 4, <8 x i1> %v23)
  br label %after19
after19:
  ret void
}

define internal void @k7_mat_mul(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
entry:
  %v2 = icmp slt i64 %a3, %a4
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a3, %entry ], [ %v28, %part25 ]
  br label %loop4
after1:
  ret void
loop4:
  %v6 = phi i64 [ 0, %loop0 ], [ %v22, %loop4 ]
  %v7 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v16, %loop4 ]
  %v8 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v21, %loop4 ]
  %v9 = getelementptr float, ptr %a0, i64 %v6
  %v10 = mul i64 %v6, 3
  %v11 = getelementptr float, ptr %a1, i64 %v10
  %v12 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v11, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v13 = load float, ptr %v9, align 4
  %v14 = insertelement <4 x float> undef, float %v13, i32 0
  %v15 = shufflevector <4 x float> %v14, <4 x float> undef, <4 x i32> zeroinitializer
  %v16 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v15, <4 x float> %v12, <4 x float> %v7)
  %v17 = getelementptr float, ptr %v9, i64 4
  %v18 = load float, ptr %v17, align 4
  %v19 = insertelement <4 x float> undef, float %v18, i32 0
  %v20 = shufflevector <4 x float> %v19, <4 x float> undef, <4 x i32> zeroinitializer
  %v21 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v20, <4 x float> %v12, <4 x float> %v8)
  %v22 = add i64 %v6, 1
  %v23 = icmp slt i64 %v22, 4
  br i1 %v23, label %loop4, label %after5
after5:
  br label %part24
part24:
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v16, ptr %a2, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  br label %part25
part25:
  %v26 = getelementptr float, ptr %a2, i64 3
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v21, ptr %v26, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v27 = add i64 %v3, 1
  %v28 = call i64 @llvm.expect.i64(i64 %v27, i64 0)
  %v29 = icmp slt i64 %v28, %a4
  br i1 %v29, label %loop0, label %after1
}

declare void @llvm.masked.store.v4f32.p0(<4 x float>, ptr, i32, <4 x i1>)

define internal void @k8_mat_mul(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
entry:
  %v2 = icmp slt i64 %a3, %a4
  br i1 %v2, label %loop0, label %after1
loop0:
  %v3 = phi i64 [ %a3, %entry ], [ %v45, %part42 ]
  br label %loop4
after1:
  ret void
loop4:
  %v6 = phi i64 [ 0, %loop0 ], [ %v35, %loop4 ]
  %v7 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v19, %loop4 ]
  %v8 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v24, %loop4 ]
  %v9 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v29, %loop4 ]
  %v10 = phi <4 x float> [ splat (float 0x0), %loop0 ], [ %v34, %loop4 ]
  %v11 = mul i64 %v6, 4
  %v12 = getelementptr float, ptr %a0, i64 %v11
  %v13 = mul i64 %v6, 3
  %v14 = getelementptr float, ptr %a1, i64 %v13
  %v15 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v14, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v16 = load float, ptr %v12, align 4
  %v17 = insertelement <4 x float> undef, float %v16, i32 0
  %v18 = shufflevector <4 x float> %v17, <4 x float> undef, <4 x i32> zeroinitializer
  %v19 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v18, <4 x float> %v15, <4 x float> %v7)
  %v20 = getelementptr float, ptr %v12, i64 1
  %v21 = load float, ptr %v20, align 4
  %v22 = insertelement <4 x float> undef, float %v21, i32 0
  %v23 = shufflevector <4 x float> %v22, <4 x float> undef, <4 x i32> zeroinitializer
  %v24 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v23, <4 x float> %v15, <4 x float> %v8)
  %v25 = getelementptr float, ptr %v12, i64 2
  %v26 = load float, ptr %v25, align 4
  %v27 = insertelement <4 x float> undef, float %v26, i32 0
  %v28 = shufflevector <4 x float> %v27, <4 x float> undef, <4 x i32> zeroinitializer
  %v29 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v28, <4 x float> %v15, <4 x float> %v9)
  %v30 = getelementptr float, ptr %v12, i64 3
  %v31 = load float, ptr %v30, align 4
  %v32 = insertelement <4 x float> undef, float %v31, i32 0
  %v33 = shufflevector <4 x float> %v32, <4 x float> undef, <4 x i32> zeroinitializer
  %v34 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v33, <4 x float> %v15, <4 x float> %v10)
  %v35 = add i64 %v6, 1
  %v36 = icmp slt i64 %v35, 2
  br i1 %v36, label %loop4, label %after5
after5:
  br label %part37
part37:
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v19, ptr %a2, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  br label %part38
part38:
  %v39 = getelementptr float, ptr %a2, i64 3
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v24, ptr %v39, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  br label %part40
part40:
  %v41 = getelementptr float, ptr %a2, i64 6
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v29, ptr %v41, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  br label %part42
part42:
  %v43 = getelementptr float, ptr %a2, i64 9
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v34, ptr %v43, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v44 = add i64 %v3, 1
  %v45 = call i64 @llvm.expect.i64(i64 %v44, i64 0)
  %v46 = icmp slt i64 %v45, %a4
  br i1 %v46, label %loop0, label %after1
}


%team = type { ptr, ptr, i64, i64, i64, ptr, ptr, i64, i64, [7 x i64], i64, [7 x i64] }

; What a thread works for, its number there, its state (0: there is none, 1: it lingers, 2: it was
; called), its handle (null: none to join), and whether it is to linger.
%member = type { ptr, i64, i64, ptr, i64, [3 x i64] }
; Whether a call has the crew, the process it lives in, and its members, each on its own cache line.
%crew = type { i64, i64, [6 x i64], [256 x %member] }
@graphc_crew = internal global %crew zeroinitializer, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @getpid()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal ptr @graphc_thread(ptr %member) nounwind {
entry:
  %scratch = alloca [64 x i8], align 512
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
  call void @graphc_walk(ptr %team, i64 %number, ptr %scratch)
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

; Make a thread, with stack enough for what it works in.
define internal i32 @graphc_make(ptr %handle_place, ptr %member) nounwind {
entry:
  %kind = alloca [256 x i8], align 16
  %refused = call i32 @pthread_attr_init(ptr %kind)
  %none = icmp ne i32 %refused, 0
  br i1 %none, label %failed, label %size
size:
  %ignored = call i32 @pthread_attr_setstacksize(ptr %kind, i64 589824)
  %status = call i32 @pthread_create(ptr %handle_place, ptr %kind, ptr @graphc_thread, ptr %member)
  %destroyed = call i32 @pthread_attr_destroy(ptr %kind)
  ret i32 %status
failed:
  ret i32 %refused
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
  %status = call i32 @graphc_make(ptr %handle_place, ptr %member)
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

define internal void @graphc_walk(ptr %team, i64 %thread, ptr %scratch) nounwind {
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
  call void %function(ptr %slots, i64 %thread, i64 %size, ptr %error, ptr %scratch, ptr %claims)
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
  %arena = load ptr, ptr %slots
  %beyond = getelementptr i8, ptr %arena, i64 639
  %address = ptrtoint ptr %beyond to i64
  %aligned = and i64 %address, -512
  %scratch = inttoptr i64 %aligned to ptr
  call void @graphc_walk(ptr %team, i64 0, ptr %scratch)
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

define internal void @graphc_step_0(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k0_mat_mul_add_bias_relu(ptr %p0, ptr %p1, ptr %p2, ptr %p3, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_1(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k1_softmax_log_loss(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found, ptr %scratch)
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
define internal void @graphc_step_2(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k2_sum_times(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_3(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k3_copy(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_4(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k4_fill_softmax_log_loss_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found, ptr %scratch)
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
define internal void @graphc_step_5(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k5_map_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_6(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k6_sum(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_7(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k7_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_8(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
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
  call void @k8_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
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
